"""Other clients' names for this one: change the import, keep the program."""
