"""The typed contexts that links pass on, and the records in them."""
