"""The typed contexts that flow between links, and the records they carry."""
