"""One file per benchmark; the file name is the benchmark's name."""
