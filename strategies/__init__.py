"""Exit rules shipped with tapeguard."""
