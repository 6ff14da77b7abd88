"""Studies whose results are shown in docs/results; each is a module that resumes where it stopped."""
