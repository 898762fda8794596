"""The command line, a file for each verb; nothing heavy is imported before a verb runs."""
