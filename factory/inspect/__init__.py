"""Look at a data set: a contact sheet and a page with its distributions."""
