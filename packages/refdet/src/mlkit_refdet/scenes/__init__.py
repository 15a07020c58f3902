"""Generated data: cut-outs pasted onto photos, and drone clips in the AeroEyes layout."""
