"""From a config to a counted, priced plan with warnings."""
