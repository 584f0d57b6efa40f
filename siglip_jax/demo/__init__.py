"""A local web page that classifies and searches images."""
