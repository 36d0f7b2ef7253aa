"""Remote endpoints: paid and foreign models behind the gateway's own API."""
