"""The command line `mossvl`: one file for each command, and what commands share."""
