"""Reports for people and documents for programs: tables, model card, provenance record."""
