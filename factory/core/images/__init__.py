"""Image files: flat ones (`files`), decoded as a whole, and slides, read region by region."""
