"""What every ragkeep process shares: settings, identity, access, errors, deadlines, telemetry, logs, servers and channels."""
