"""What the data of every task needs: images, files, and repeatable batches."""
