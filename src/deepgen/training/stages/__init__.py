"""What each stage trains: one file each, with its config and its step."""
