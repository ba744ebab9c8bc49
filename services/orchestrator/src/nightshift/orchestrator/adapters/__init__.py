"""What stands between the loop and the outside: one file per vendor."""
