"""What the commands of the command line do, a file each; nothing here is imported before its command is asked for."""
