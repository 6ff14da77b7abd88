"""Reports of all commands: blocks that become a table on the terminal, Markdown or one HTML page."""
