"""What happens in what order: one file per pipeline, the stages they share, and the command line."""
