"""End-to-end measurements: every number in the documents has its command here."""
