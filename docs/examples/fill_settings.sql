UPDATE session SET cookie_path = '/', cookie_httponly = TRUE;
UPDATE session SET extension_chance = 100, extension_deadline = 1;
UPDATE session SET renewal_try_every = 5;
