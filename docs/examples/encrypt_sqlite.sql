ALTER TABLE session RENAME COLUMN flash TO flash_plain;
ALTER TABLE session ADD COLUMN flash BLOB NOT NULL DEFAULT x'';
UPDATE session SET flash = CAST(flash_plain AS BLOB);
ALTER TABLE session DROP COLUMN flash_plain;
