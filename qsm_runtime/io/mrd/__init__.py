"""Images and maps in MRD (ISMRMRD), as scanners stream them through FIRE and OpenRecon."""
