"""What happens in what order: the pipelines, the stages they share, and the command line."""
