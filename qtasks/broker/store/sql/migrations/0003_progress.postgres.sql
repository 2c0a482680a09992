-- How far tasks that have not finished have come, as they last said. A table of its own, so that
-- messages that never say so pay nothing for it. `report` is JSON.
CREATE TABLE progress (
  message BIGINT PRIMARY KEY,
  report BYTEA NOT NULL,
  reported_at BIGINT NOT NULL
);
