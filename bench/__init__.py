"""What is claimed to be fast, measured against a peer or a limit in the same run. Not part of the tests."""
