"""Stored embeddings of a locked image tower, to train on (LiT).

`encode.py` writes the embeddings of a data set, `views.py` prepares the images
to encode, and `tower.py` loads the tower and checks which tower made stored
embeddings.
"""
