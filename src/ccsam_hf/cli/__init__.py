"""The command line `ccsam-hf`: one file for each command, thin over the library."""
