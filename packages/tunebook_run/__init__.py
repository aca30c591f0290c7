"""What a run leaves behind: store, stages, records, settings, logging, progress."""
