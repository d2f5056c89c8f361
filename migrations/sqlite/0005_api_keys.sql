-- The versions of API keys, by the owner they end with.
CREATE INDEX artefacts_api_keys ON artefacts (grant_id) WHERE kind = 'api_key';
