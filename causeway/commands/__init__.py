"""The commands of `causeway` that read the prediction log; one file each, with a click command of the file's name."""
