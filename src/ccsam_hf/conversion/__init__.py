"""Published weights converted to the folders that `from_pretrained` loads."""
