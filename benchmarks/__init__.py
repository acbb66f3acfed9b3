"""What every method and kernel costs and how accurate it is; run from a checkout, no part of the package."""
