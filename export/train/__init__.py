"""Training of the networks that are the project's own, on data that it simulates."""
