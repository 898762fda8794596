"""Read, complete and check the config of a sweep."""
