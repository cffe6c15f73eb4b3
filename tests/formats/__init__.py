"""What earlier versions wrote to disk and bucket, read by the broker of today."""
