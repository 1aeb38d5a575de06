"""Images → instruction/answer pairs: requests, and who replies to them."""
