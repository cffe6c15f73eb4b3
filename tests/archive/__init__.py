"""The archive judged from outside: the binary, a directory or a real S3 server, and readers that others wrote."""
