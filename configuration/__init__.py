"""How processes read their settings from `HGPROMPT_…` environment variables."""
