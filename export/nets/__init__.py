"""Network definitions, written from their papers; attribute names follow the published state dicts."""
