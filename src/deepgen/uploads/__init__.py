"""Files that strangers send: read within a budget of bytes and pixels."""
