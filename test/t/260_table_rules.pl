# What becomes of target rows whose source row is gone: deleted, marked, moved to
# an archive, or left; with single deletes, a TRUNCATE, keys that come back and
# keys that change. Verification knows each of them.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair();
my $target = $pair->target;
my @tables = qw(plain marked flagged archived ignored);

sub call { my ($sql) = @_; return $pair->sql_target($sql, timeout => $PostgreSQL::Test::Utils::timeout_default) }
sub everywhere { my ($sql) = @_; return $pair->sql_source(join '; ', map { $sql =~ s/RELATION/old.$_/gr } @tables) }
sub ids { my ($table, $where) = @_; return $pair->sql_target("SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '-') FROM new.$table" . ($where ? " WHERE $where" : '')) }

$pair->sql_source('CREATE SCHEMA old');
everywhere(q{CREATE TABLE RELATION (id integer PRIMARY KEY, v text); INSERT INTO RELATION SELECT i, 'v' || i FROM generate_series(1, 6) AS i});
$pair->sql_target(q{
	CREATE SCHEMA new;
	CREATE TABLE new.plain (id integer PRIMARY KEY, v text);
	CREATE TABLE new.marked (id integer PRIMARY KEY, v text, deleted_at timestamptz);
	CREATE TABLE new.flagged (id integer PRIMARY KEY, v text, deleted boolean NOT NULL DEFAULT false);
	CREATE TABLE new.archived (id integer PRIMARY KEY, v text);
	CREATE TABLE new.archive (id integer, v text, put_at timestamptz DEFAULT now());
	CREATE TABLE new.ignored (id integer PRIMARY KEY, v text);});
$pair->import_foreign_schema('old', 'old');
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'rows are never just deleted');
	SELECT rehome.add_schema('m', 'old', 'new');
	SELECT rehome.set_table_rule('m', 'new.marked', on_delete => 'mark', delete_column => 'deleted_at');
	SELECT rehome.set_table_rule('m', 'new.flagged', on_delete => 'mark', delete_column => 'deleted');
	SELECT rehome.set_table_rule('m', 'new.archived', on_delete => 'archive', delete_archive => 'new.archive');
	SELECT rehome.set_table_rule('m', 'new.ignored', on_delete => 'ignore');});
is((sqlstate_of($target, q{SELECT rehome.set_table_rule('m', 'new.plain', on_delete => 'mark', delete_column => 'v')}))[0], '42804', 'a text is no mark');
is((sqlstate_of($target, q{SELECT rehome.set_table_rule('m', 'new.marked', on_delete => 'archive', delete_archive => 'new.plain')}))[0], '42703', 'an archive has all columns');
{
	# as CREATE TABLE ... (LIKE ... INCLUDING ALL) makes one
	$pair->sql_target(q{
		CREATE TABLE new.like_all (id integer PRIMARY KEY, v text GENERATED ALWAYS AS ('x') STORED);
		CREATE TABLE new.by_time (id integer, v text, put_at timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (id, put_at))});
	my ($sqlstate, undef, $detail) = sqlstate_of($target, q{SELECT rehome.set_table_rule('m', 'new.archived', on_delete => 'archive', delete_archive => 'new.like_all')});
	is($sqlstate, '428C9', 'an archive takes values as they come, and a row more than once');
	like($detail, qr/Column "v" of archive "like_all" makes its values itself.*Index "like_all_pkey" of archive "like_all" is unique/s, 'both is said at once');
	is((sqlstate_of($target, q{BEGIN; SELECT rehome.set_table_rule('m', 'new.archived', on_delete => 'archive', delete_archive => 'new.by_time'); ROLLBACK}))[0], '00000', 'an index that has the time as well is no harm');
}
call(q{CALL rehome.copy('m')});

sub verified
{
	my ($name) = @_;
	for my $mode (qw(count hash rows))
	{
		is($pair->sql_target(qq{SELECT coalesce(string_agg(target::text, ' '), 'all') FROM rehome.verify('m', mode => '$mode') WHERE NOT ok}), 'all', "$name: verify, mode $mode");
	}
}

everywhere(q{DELETE FROM RELATION WHERE id = 2; UPDATE RELATION SET id = 30 WHERE id = 3});
call(q{CALL rehome.sync('m')});
is(ids('plain'), '1 4 5 6 30', 'deleted');
is(ids('marked', 'deleted_at IS NOT NULL') . ' | ' . ids('marked', 'deleted_at IS NULL'), '2 3 | 1 4 5 6 30', 'marked with the time');
is(ids('flagged', 'deleted') . ' | ' . ids('flagged', 'NOT deleted'), '2 3 | 1 4 5 6 30', 'marked with a flag');
is(ids('archived') . ' | ' . ids('archive', 'put_at IS NOT NULL'), '1 4 5 6 30 | 2 3', 'archived');
is(ids('ignored'), '1 2 3 4 5 6 30', 'ignored');
verified('deletes');

my $when = $pair->sql_target('SELECT deleted_at FROM new.marked WHERE id = 3');
everywhere(q{INSERT INTO RELATION VALUES (2, 'again')});
call(q{CALL rehome.sync('m')});
is(ids('marked', 'deleted_at IS NOT NULL') . ' | ' . ids('flagged', 'deleted'), '3 | 3', 'a row that comes back is not marked any more');
is($pair->sql_target('SELECT v FROM new.ignored WHERE id = 2'), 'again', 'and is what it is at the source');
verified('back again');

everywhere(q{BEGIN; TRUNCATE RELATION; INSERT INTO RELATION VALUES (1, 'new'), (7, 'seven'); COMMIT});
call(q{CALL rehome.sync('m')});
is(ids('plain'), '1 7', 'TRUNCATE: deleted');
is(ids('marked', 'deleted_at IS NOT NULL') . ' | ' . ids('marked', 'deleted_at IS NULL'), '2 3 4 5 6 30 | 1 7', 'TRUNCATE: marked');
is($pair->sql_target('SELECT deleted_at FROM new.marked WHERE id = 3'), $when, 'a mark stays what it was');
is(ids('archived') . ' | ' . ids('archive'), '1 7 | 2 2 3 4 5 6 30', 'TRUNCATE: archived');
is(ids('ignored'), '1 2 3 4 5 6 7 30', 'TRUNCATE: ignored');
verified('TRUNCATE');

$pair->sql_target(q{SELECT rehome.recopy('m', 'new.archived')});
call(q{CALL rehome.sync('m')});
is(ids('archived') . ' | ' . ids('archive'), '1 7 | 2 2 3 4 5 6 30', 'a table copied again puts nothing into the archive that is still there');

# What goes into the archive makes room for new rows with the same unique values,
# in whichever batches of rows these come; where they can be refused, too.
for my $on_error (qw(fail quarantine))
{
	$pair->sql_source(q{
		CREATE TABLE old.coded (id integer PRIMARY KEY, code text, n integer);
		INSERT INTO old.coded SELECT i, 'c' || i, i FROM generate_series(1, 2500) AS i});
	$pair->sql_target(qq{
		CREATE TABLE new.coded (id integer PRIMARY KEY, code text UNIQUE, n integer);
		CREATE TABLE new.coded_archive (id integer, code text, n integer);
		IMPORT FOREIGN SCHEMA old LIMIT TO (coded) FROM SERVER src INTO old;
		SELECT rehome.create_migration('c', 'src', 'codes are used again');
		SELECT rehome.add_table('c', 'old.coded', 'new.coded');
		SELECT rehome.set_table_rule('c', 'new.coded', on_error => '$on_error', on_delete => 'archive', delete_archive => 'new.coded_archive')});
	call(q{CALL rehome.copy('c')});
	$pair->sql_source(q{
		BEGIN;
		CREATE TEMP TABLE saved AS SELECT * FROM old.coded WHERE id % 5 > 0;
		TRUNCATE old.coded;
		INSERT INTO old.coded SELECT CASE WHEN id % 5 = 1 THEN id ELSE id + 100000 END, code, n FROM saved;
		UPDATE old.coded SET code = CASE id % 10 WHEN 1 THEN 'c' || id + 5 ELSE 'c' || id - 5 END WHERE id < 100000;
		COMMIT});
	is((sqlstate_of($target, q{CALL rehome.sync('c')}))[0], '00000', "codes used again, $on_error: they are applied");
	# of rows that were refused for a moment no more than a thousand are tried again at once
	for (1 .. 3)
	{
		$pair->sql_source('UPDATE old.coded SET n = n WHERE id = 1');
		call(q{CALL rehome.sync('c')});
	}
	is($pair->sql_target(q{SELECT count(*), count(*) FILTER (WHERE id > 100000), (SELECT count(*) FROM new.coded_archive), (SELECT count(*) FROM rehome.quarantine WHERE migration = 'c') FROM new.coded}),
		'2000|1500|2000|0', "codes used again, $on_error: all rows are there, and in the archive those that are gone");
	is($pair->sql_target(q{SELECT ok FROM rehome.verify('c', mode => 'rows')}), 't', "codes used again, $on_error: both sides are equal");
	call(q{CALL rehome.cancel('c')});
	$pair->sql_source('DROP TABLE old.coded');
	$pair->sql_target(q{SELECT rehome.drop_migration('c'); DROP TABLE new.coded, new.coded_archive; DROP FOREIGN TABLE old.coded});
}

# A column's policy does not have a table applied in parts that must not be.
$pair->sql_source(q{
	CREATE TABLE old.item (id integer PRIMARY KEY, pos integer, n text);
	INSERT INTO old.item SELECT i, i, i FROM generate_series(1, 2500) AS i});
$pair->sql_target(q{
	CREATE TABLE new.item (id integer PRIMARY KEY, pos integer NOT NULL UNIQUE, n integer);
	IMPORT FOREIGN SCHEMA old LIMIT TO (item) FROM SERVER src INTO old;
	SELECT rehome.create_migration('p', 'src', 'positions move up');
	SELECT rehome.add_table('p', 'old.item', 'new.item', columns => '{"n": null}');
	SELECT rehome.add_rule('p', 'new.item', 'n', 'cast', on_error => 'null')});
call(q{CALL rehome.copy('p')});
$pair->sql_source(q{UPDATE old.item SET pos = -pos; UPDATE old.item SET pos = 1 - pos, n = CASE WHEN id = 5 THEN 'five' ELSE n END});
is((sqlstate_of($target, q{CALL rehome.sync('p')}))[0], '00000', 'positions that move up are applied, however many');
is($pair->sql_target(q{SELECT count(*) FILTER (WHERE pos = id + 1), count(*) FILTER (WHERE n IS NULL) FROM new.item}), '2500|1', 'each has its own, and the policy is kept');
call(q{CALL rehome.cancel('p')});

done_testing();
