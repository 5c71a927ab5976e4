"""From the setting `HGPROMPT_BACKBONE` to a loaded, frozen, identified backbone."""
