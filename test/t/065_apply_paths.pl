# A batch reaches a plain table directly, any other by MERGE.  The same changes of
# two sources are brought into two targets, one of which has a trigger that does
# nothing but keep the direct way from being taken: both must end alike.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair(target_conf => "shared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.track = all");
my ($source, $target) = ($pair->source, $pair->target);
my @migrations = qw(direct merged);

# The same in the schemas of both sources.
sub at_source
{
	my ($sql) = @_;
	$pair->sql_source($sql =~ s/\bapp\b/app_$_/gr) for @migrations;
	return;
}

at_source(q{
	CREATE SCHEMA app;
	CREATE TABLE app.plain (id int PRIMARY KEY, n numeric, note text, at timestamptz);
	CREATE TABLE app.two (a text, b int, f float8, doc jsonb, list int[], PRIMARY KEY (b, a));
	CREATE TABLE app.uniq (id bigint PRIMARY KEY, code text UNIQUE, qty int);
	CREATE TABLE app.more (id int PRIMARY KEY, v text);
	CREATE TABLE app.strict (id int PRIMARY KEY, v int);
	CREATE TABLE app.own (id int PRIMARY KEY, v text);
	CREATE TABLE app.keys (id int PRIMARY KEY, v int);
});
for my $m (@migrations)
{
	$pair->sql_target(qq{
		CREATE SCHEMA $m;
		CREATE DOMAIN $m.short AS text CHECK (length(value) < 3000);
		CREATE TABLE $m.plain (id int PRIMARY KEY, gone int, n numeric, note text, at timestamptz);
		ALTER TABLE $m.plain DROP COLUMN gone;
		CREATE TABLE $m.two (list int[], doc jsonb, f float8, b int, a text COLLATE "C", PRIMARY KEY (a, b));
		CREATE TABLE $m.uniq (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code text UNIQUE, qty int,
		                      twice int GENERATED ALWAYS AS (qty * 2) STORED);
		CREATE INDEX ON $m.uniq (twice, lower(code));
		CREATE TABLE $m.more (id int PRIMARY KEY, v $m.short, extra text DEFAULT 'a default', other int);
		CREATE TABLE $m.strict (id int PRIMARY KEY, v int NOT NULL CHECK (v >= 0));
		CREATE TABLE $m.own (id int PRIMARY KEY, v text, mine text);
		CREATE TABLE $m.keys (id int PRIMARY KEY, v int);
	});
}
my @tables = qw(plain two uniq more strict own keys);
$pair->sql_target(q{CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'});
$pair->sql_target("CREATE TRIGGER nothing AFTER INSERT OR UPDATE ON merged.$_ FOR EACH STATEMENT EXECUTE FUNCTION public.nothing(); ALTER TABLE merged.$_ ENABLE ALWAYS TRIGGER nothing") for @tables;

sub fill
{
	at_source(q{
		INSERT INTO app.plain SELECT i, i / 3.0, 'note ' || i, '2024-02-29 12:00+00' FROM generate_series(1, 3000) i;
		INSERT INTO app.two SELECT 'a' || i % 7, i, i / 7.0, jsonb_build_object('i', i), ARRAY[i, i + 1] FROM generate_series(1, 2500) i;
		INSERT INTO app.uniq SELECT i, 'code ' || i, i FROM generate_series(1, 2000) i;
		INSERT INTO app.more SELECT i, repeat(md5(i::text), 80) FROM generate_series(1, 1500) i;
		INSERT INTO app.strict SELECT i, i FROM generate_series(1, 1200) i;
		INSERT INTO app.own SELECT i, 'v' || i FROM generate_series(1, 1100) i;
		INSERT INTO app.keys SELECT i, i FROM generate_series(1, 50) i;
	});
	return;
}

fill();
for my $m (@migrations)
{
	$pair->import_foreign_schema("app_$m", "far_$m");
	$pair->sql_target(qq{
		SELECT rehome.create_migration('$m', 'src', 'one of two ways');
		SELECT rehome.add_table('$m', 'far_$m.' || t, '$m.' || t) FROM unnest('{plain,two,uniq,more,strict,own}'::text[]) AS t;
		SELECT rehome.add_table('$m', 'far_$m.keys', '$m.keys');
		CALL rehome.copy('$m');
		ANALYZE;
	});
}

my %columns = (
	plain => 'id, n::text, note, at',
	two   => 'a, b, f, doc::text, list',
	uniq  => 'id, code, qty',
	more  => 'id, v',
	strict => 'id, v',
	own   => 'id, v',
	keys  => 'id, v');
my %all = (%columns, uniq => 'id, code, qty, twice', more => 'id, v, extra, other', own => 'id, v, mine');

sub digest
{
	my ($run, $schema, $table, $columns) = @_;
	return $pair->$run("SELECT count(*) || ' ' || coalesce(sum(hashtextextended(ROW($columns)::text, 0)), 0) FROM $schema.$table");
}

sub alike
{
	my ($name) = @_;
	for my $m (@migrations)
	{
		my $result = finish_psql(start_psql($target, "CALL rehome.sync('$m')"));
		is($result->{sqlstate}, '00000', "$name, $m: sync ends well") or diag($result->{stderr});
	}
	is(join("\n", map { digest('sql_target', 'direct', $_, $all{$_}) } @tables),
		join("\n", map { digest('sql_target', 'merged', $_, $all{$_}) } @tables), "$name: both ways end alike");
	is(join("\n", map { digest('sql_target', 'direct', $_, $columns{$_}) } @tables),
		join("\n", map { digest('sql_source', 'app_direct', $_, $columns{$_}) } @tables), "$name: and like the source");
	# By index and by scan: every index has every row.
	my $by_index = $pair->sql_target(q{SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*), sum(id) FROM direct.uniq WHERE code > '' ; SELECT count(*) FROM direct.two WHERE a >= ''; SELECT count(*) FROM direct.uniq WHERE twice IS NOT NULL});
	my $by_scan = $pair->sql_target(q{SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; SELECT count(*), sum(id) FROM direct.uniq WHERE code > '' ; SELECT count(*) FROM direct.two WHERE a >= ''; SELECT count(*) FROM direct.uniq WHERE twice IS NOT NULL});
	is($by_index, $by_scan, "$name: the indexes have what the tables have");
	return;
}

alike('after the copy');

at_source(q{
	UPDATE app.plain SET n = n + 1 WHERE id % 3 = 0;
	UPDATE app.plain SET n = 1.00 WHERE id = 1; UPDATE app.plain SET n = 1.0 WHERE id = 1;
	UPDATE app.plain SET note = NULL, at = '-infinity' WHERE id % 5 = 0;
	UPDATE app.two SET f = '-0' WHERE b % 2 = 0;
	UPDATE app.two SET f = 'NaN', doc = NULL WHERE b % 9 = 0;
	UPDATE app.two SET a = 'moved ' || a WHERE b % 11 = 0;
	UPDATE app.uniq SET qty = -qty WHERE id % 2 = 0;
	UPDATE app.more SET v = repeat(md5(v), 70) WHERE id % 4 = 0;
	UPDATE app.strict SET v = 0 WHERE id % 2 = 0;
	UPDATE app.own SET v = v || '.' WHERE id % 3 = 0;
});
alike('updates');

at_source(q{
	DELETE FROM app.plain WHERE id % 7 = 0;
	INSERT INTO app.plain SELECT i, NULL, NULL, NULL FROM generate_series(3001, 6000) i;
	UPDATE app.plain SET id = -id WHERE id % 2 = 1;
	INSERT INTO app.two SELECT '', i, NULL, NULL, '{}' FROM generate_series(-1500, 0) i;
	DELETE FROM app.uniq WHERE id % 13 = 0;
	UPDATE app.uniq SET code = 'x ' || code;
	UPDATE app.uniq SET code = 'code ' || (5000 - id);
	UPDATE app.uniq SET id = id + 10000 WHERE id % 5 = 0;
	INSERT INTO app.uniq SELECT i, 'new ' || i, NULL FROM generate_series(2001, 3500) i;
	INSERT INTO app.more SELECT i, NULL FROM generate_series(1501, 3000) i;
	INSERT INTO app.strict SELECT i, 1 FROM generate_series(1201, 3000) i;
	DELETE FROM app.own WHERE id % 3 = 1;
	INSERT INTO app.own SELECT i, 'again' FROM generate_series(1, 3000) i ON CONFLICT DO NOTHING;
});
alike('deletes, inserts, keys and unique values that change');

at_source(q{
	TRUNCATE app.keys, app.two;
	INSERT INTO app.two SELECT 'a', i, i, '{}', NULL FROM generate_series(1, 1500) i;
});
alike('truncated and filled anew');

# What the target refuses, it refuses either way.
for my $case (
	[ 'a CHECK', 'UPDATE app.strict SET v = -1 WHERE id = 7', 'UPDATE app.strict SET v = 1 WHERE id = 7', '23514' ],
	[ 'NOT NULL', 'UPDATE app.strict SET v = NULL WHERE id = 7', 'UPDATE app.strict SET v = 1 WHERE id = 7', '23502' ],
	[ 'a CHECK of a new row', 'INSERT INTO app.strict VALUES (100000, -1)', 'DELETE FROM app.strict WHERE id = 100000', '23514' ],
	[ 'a domain', q{UPDATE app.more SET v = repeat('x', 4000) WHERE id = 7}, q{UPDATE app.more SET v = '' WHERE id = 7}, '23514' ])
{
	my ($name, $break, $mend, $sqlstate) = @$case;
	at_source($break);
	is_deeply([ map { (sqlstate_of($target, "CALL rehome.sync('$_')"))[0] } @migrations ], [ ($sqlstate) x 2 ], "$name: refused alike");
	at_source($mend);
	alike("$name, mended");
}

# What has the trigger is merged, and so are new rows of a table that gives them
# more than the source has.
$pair->sql_target('CREATE EXTENSION pg_stat_statements');

sub merges
{
	my ($m, $sql) = @_;
	at_source($sql);
	$pair->sql_target("SELECT FROM pg_stat_statements_reset(); CALL rehome.sync('$m')");
	return $pair->sql_target(q{SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE 'MERGE INTO %'});
}

my $change = q{
	UPDATE app.plain SET note = 'changed' WHERE id = (SELECT max(id) FROM app.plain);
	UPDATE app.two SET f = 7 WHERE b = 7;
	INSERT INTO app.uniq VALUES (77777, 'seven', 7);
	UPDATE app.own SET v = 'changed' WHERE id = 7;
	UPDATE app.more SET v = 'changed' WHERE id = 7;
	INSERT INTO app.strict VALUES (77777, 7);
};
is(merges('direct', $change), 0, 'plain tables are not merged');
is(merges('merged', ''), 6, 'others are');
is(merges('direct', q{INSERT INTO app.more VALUES (77777, 'new')}), 1, 'and new rows that get a default');
alike('in the end');

# A table that was analyzed while it was being loaded, or when there was nothing
# in it, counts as empty.  Nobody may go through all keys for each of its rows.
sub all_in_time
{
	my ($name) = @_;
	for my $m (@migrations)
	{
		my ($sqlstate, $said) = sqlstate_of($target, "SET statement_timeout = '8s'; CALL rehome.sync('$m')");
		is($sqlstate, '00000', "$name, $m: in no long time") || diag($said);
		is(digest('sql_target', $m, 'keys', 'id, v'), digest('sql_source', "app_$m", 'keys', 'id, v'), "$name, $m: the same");
	}
	return;
}

sub seem_empty
{
	my ($run, $like) = @_;
	$pair->$run("UPDATE pg_class c SET reltuples = 0, relpages = 100 FROM pg_namespace n WHERE n.oid = c.relnamespace AND c.relkind = 'r' AND n.nspname || '.' || c.relname LIKE '$like'");
	return;
}

at_source('ALTER TABLE app.keys SET (autovacuum_enabled = off); INSERT INTO app.keys SELECT i, i FROM generate_series(51, 30000) i');
$pair->sql_target("ALTER TABLE $_.keys SET (autovacuum_enabled = off)") for @migrations;
all_in_time('many rows that are new');
at_source('DELETE FROM app.keys WHERE id % 3 = 0; UPDATE app.keys SET v = v + 1');
seem_empty('sql_source', $_) for 'app%.keys', 'rehome!_source.change%' =~ s/!/\\/r;
all_in_time('a source that seems empty');

seem_empty('sql_target', '%.keys');
at_source('UPDATE app.keys SET v = v + 1');
all_in_time('a target that seems empty');

for my $m (@migrations)
{
	$pair->sql_target("CALL rehome.cutover('$m'); BEGIN; CREATE TEMP TABLE kept AS TABLE $m.keys; TRUNCATE $m.keys; INSERT INTO $m.keys SELECT id, v + 1 FROM kept WHERE id % 5 > 0; COMMIT");
}
seem_empty('sql_source', 'app%.keys');
seem_empty('sql_target', '%.keys');
all_in_time('on the way back');

done_testing();
