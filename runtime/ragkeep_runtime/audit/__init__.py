"""What an audit log is made of, for whoever writes it (the gateway) and whoever proves it (the gateway, the command)."""
