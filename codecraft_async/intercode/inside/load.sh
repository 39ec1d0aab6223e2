# Makes the server's files in $1/data, with the dump of $1 loaded. Runs while an image is built.
set -eu
here=$1
data=$here/data
exec 2>&1

client() { mariadb --no-defaults --user=root --socket="$here/socket" "$@"; }
serve() { mariadbd --defaults-file="$here/server.cnf" --datadir="$data" --socket="$here/socket" --user=root "$@"; }

mariadb-install-db --defaults-file="$here/server.cnf" --datadir="$data" --user=root --skip-log-bin \
    --auth-root-authentication-method=normal --skip-test-db >/dev/null
serve --skip-log-bin --autocommit=ON --max-allowed-packet=1G --innodb-buffer-pool-size=256M --innodb-log-file-size=64M \
    --local-infile=OFF &
server=$!
until client --execute="" 2>/dev/null; do
    kill -0 $server
    sleep 0.05
done
client --default-character-set=utf8mb4 <"$here/dump.sql"

client <<'SQL'
DROP DATABASE IF EXISTS sys;
TRUNCATE mysql.help_topic;
CREATE OR REPLACE USER codecraft@localhost IDENTIFIED BY 'codecraft';
GRANT ALL ON *.* TO codecraft@localhost WITH GRANT OPTION;
CREATE OR REPLACE USER admin@localhost IDENTIFIED BY 'admin';
CREATE OR REPLACE USER reader@localhost IDENTIFIED BY 'reader';
SQL
# Nothing that holds for the whole server, and what an event would do, would be done after its episode.
may="SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, CREATE VIEW,
    SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, TRIGGER, DELETE HISTORY"
own="SCHEMA_NAME NOT IN ('mysql', 'information_schema', 'performance_schema')"
name='REPLACE(REPLACE(SCHEMA_NAME, "_", "\\_"), "%", "\\%")'
for grant in "admin:$may" "reader:SELECT, SHOW VIEW"; do
    client --skip-column-names --raw --execute="SELECT CONCAT('GRANT ${grant#*:} ON \`', $name, '\`.* TO ${grant%%:*}@localhost;')
        FROM information_schema.SCHEMATA WHERE $own" | tr '\n' ' ' | client
done
client --skip-column-names --raw --execute="SELECT CONCAT('ANALYZE TABLE \`', TABLE_SCHEMA, '\`.\`', TABLE_NAME, '\`;')
    FROM information_schema.TABLES JOIN information_schema.SCHEMATA ON SCHEMA_NAME = TABLE_SCHEMA
    WHERE $own AND TABLE_TYPE = 'BASE TABLE'" | client >/dev/null
# A slow end leaves nothing to be cleaned up, at a moment that nobody knows, by the servers that get these files.
client --execute="SET GLOBAL innodb_fast_shutdown = 0; SHUTDOWN"
wait $server
# Once more with the options that it will have, which gives the log its size.
serve --skip-log-bin &
server=$!
until client --execute="" 2>/dev/null; do
    kill -0 $server
    sleep 0.05
done
client --execute="SET GLOBAL innodb_fast_shutdown = 0; SHUTDOWN"
wait $server
rm -f "$here/socket" "$here/dump.sql" "$data"/*.pid "$data"/mysql_upgrade_info
chmod -R a+rX "$data"
