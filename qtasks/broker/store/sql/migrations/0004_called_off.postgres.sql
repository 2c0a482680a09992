-- calling off: what a node has in flight and another one was asked to call off; nearly always nothing
CREATE INDEX pending_called_off ON pending (lease_owner) WHERE cancel_at IS NOT NULL;
