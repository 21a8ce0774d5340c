# A source, and a target, all of whose tables are published: what pg_rehome makes
# there is as well, and has to be written and pruned all the same.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair(
	role        => 1,
	source_conf => "wal_level = logical\nmax_wal_senders = 4",
	target_conf => "wal_level = logical\nrehome.naptime = 50ms");
my ($source, $target) = ($pair->source, $pair->target);
my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.item (id int PRIMARY KEY, v text UNIQUE);
	CREATE TABLE app.pair (a int, b text, v text, PRIMARY KEY (a, b));
};
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source(q{
	INSERT INTO app.item SELECT i, 'v' || i FROM generate_series(1, 100) i;
	INSERT INTO app.pair SELECT i, 'b', 'v' FROM generate_series(1, 100) i;
	CREATE PUBLICATION everything FOR ALL TABLES;
});
$pair->sql_target(q{CREATE PUBLICATION everything FOR ALL TABLES});
$pair->grant_source('app');
$pair->sql_target(q{SELECT rehome.create_migration('m', 'src', 'a test of publications'); SELECT rehome.add_schema('m', 'app', 'app')});

my @content = qw(app.item app.pair);
sub call { my ($sql, $name) = @_; my ($sqlstate, $message) = sqlstate_of($target, $sql); return is($sqlstate, '00000', $name) || diag($message) }
my $write = q{UPDATE app.item SET v = v || '!' WHERE id < 10; DELETE FROM app.item WHERE id IN (50, 51); UPDATE app.pair SET b = 'c' WHERE a < 5; INSERT INTO app.pair VALUES (%d, 'x', 'new'); DELETE FROM app.pair WHERE a = 60};

is($pair->sql_target(q{SELECT string_agg("check" || ' ' || severity || ' ' || object, ', ' ORDER BY "check") FROM rehome.preflight('m') WHERE detail LIKE 'publishes all tables%'}),
	'source warning everything, target warning everything', 'preflight tells what their subscribers get');
my $unidentified = q{SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname LIKE 'rehome%' AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident <> 'f'
	AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)};
call(q{CALL rehome.copy('m')}, 'copied');
call(q{SELECT * FROM rehome.verify('m', incremental => true)}, 'verified');
for my $round (1 .. 3)
{
	is((sqlstate_of($source, sprintf($write, 200 + $round)))[0], '00000', "round $round: the source is written");
	call(q{CALL rehome.sync('m')}, "round $round: in sync");
}
same_content($pair, \@content, 'the same content');
call(q{CALL rehome.cutover('m')}, 'cut over');
for my $round (1 .. 3)
{
	is((sqlstate_of($target, sprintf($write, 300 + $round)))[0], '00000', "round $round: the target is written");
	call(q{CALL rehome.sync('m')}, "round $round: in sync, back");
}
is($pair->sql_source($unidentified), '', 'no table of ours at the source is without an identity for its rows');
is($pair->sql_target($unidentified), '', 'nor one at the target');
call(q{CALL rehome.rollback('m')}, 'rolled back');
same_content($pair, \@content, 'the same content again');
is((sqlstate_of($source, sprintf($write, 400)))[0], '00000', 'the source is written again');
call(q{CALL rehome.sync('m')}, 'in sync again');
call(q{SELECT * FROM rehome.verify('m')}, 'verified');
same_content($pair, \@content, 'the same content once more');

# A subscription fires no trigger for each statement: a target that is fed by one
# needs the guard for each row.
sub guards { return $pair->sql_target(q{SELECT string_agg(CASE WHEN tgtype & 1 = 1 THEN 'row' ELSE 'statement' END, ' ' ORDER BY tgrelid::regclass::text) FROM pg_trigger WHERE tgname = 'rehome_guard'}) }
$pair->sql_source(q{CREATE TABLE app.outside (id int PRIMARY KEY, v text); CREATE PUBLICATION items FOR TABLE app.item});
is(guards(), 'statement statement', 'guards for each statement');
my $connect = $source->connstr('postgres') =~ s/'/''/gr;
$pair->sql_target(qq{CREATE SUBSCRIPTION feed CONNECTION '$connect' PUBLICATION items WITH (copy_data = false)});
is((sqlstate_of($target, q{CALL rehome.sync('m')}))[0], 'RH009', 'a target that a subscription feeds is not guarded by that');
is($pair->sql_target(q{SELECT string_agg(target::text, ' ') FROM rehome.table_map WHERE paused}), 'app.item', 'it is paused');
call(q{SELECT rehome.resume_table('m', 'app.item')}, 'and resumed');
is(guards(), 'row statement', 'with a guard for each row');
$pair->sql_source(q{INSERT INTO app.item VALUES (7000, 'by both ways')});
ok(wait_until($target, q{SELECT apply_error_count > 0 FROM pg_stat_subscription_stats}), 'which keeps the subscription out');
$pair->sql_target(q{ALTER SUBSCRIPTION feed DISABLE; ALTER SUBSCRIPTION feed SET (slot_name = NONE); DROP SUBSCRIPTION feed});
$pair->sql_source(q{SELECT pg_drop_replication_slot('feed') FROM pg_replication_slots WHERE NOT active});
call(q{CALL rehome.sync('m')}, 'in sync');
same_content($pair, \@content, 'the same content, by one way');
call(q{CALL rehome.cancel('m')}, 'cancelled');
call(q{SELECT rehome.drop_migration('m')}, 'dropped');

# A subscription that writes to a source: in replica role, where only triggers that
# are ENABLE ALWAYS fire, and to make them that is for the owner.
$pair->sql_source(q{CREATE DATABASE upstream});
my $fed = q{CREATE SCHEMA fed; CREATE TABLE fed.plain (id int PRIMARY KEY, v text);
	CREATE TABLE fed.parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE fed.parted_1 PARTITION OF fed.parted FOR VALUES FROM (0) TO (1000)};
$source->safe_psql('upstream', "$fed; CREATE PUBLICATION feed FOR TABLE fed.plain, fed.parted_1");
$source->safe_psql('upstream', q{SELECT pg_create_logical_replication_slot('feed', 'pgoutput')});
$pair->sql_source($fed);
$pair->sql_target($fed);
$pair->grant_source('fed');
$pair->import_foreign_schema('fed', 'fed_far', 'plain', 'parted');
my $upstream  = $source->connstr('upstream') =~ s/'/''/gr;
my $subscribe = qq{CREATE SUBSCRIPTION feed CONNECTION '$upstream' PUBLICATION feed WITH (create_slot = false, slot_name = 'feed', copy_data = false)};
my $missed    = q{SELECT coalesce(string_agg(severity || ' ' || object, ', ' ORDER BY object), 'none') FROM rehome.preflight('fed') WHERE detail LIKE 'a subscription writes to it%'};
$pair->sql_target(q{SELECT rehome.create_migration('fed', 'src', 'a source that is fed'); SELECT rehome.add_schema('fed', 'fed_far', 'fed')});
is($pair->sql_target($missed), 'none', 'no subscription yet');
call(q{CALL rehome.copy('fed')}, 'copied');
$pair->sql_source($subscribe);
is((sqlstate_of($target, q{CALL rehome.sync('fed')}))[0], 'RH009', 'fed by a subscription since');
is($pair->sql_target(q{SELECT string_agg(target || ': ' || reason, E'\n' ORDER BY target::text) FROM rehome.table_map WHERE paused}), <<'END' =~ s/\n\z//r, 'both tables are paused');
fed.parted: at the source a subscription writes to the table, which the connecting role does not own: its triggers do not fire for that
fed.plain: at the source the table is a part of another one, has parts itself, or is fed by a subscription since: its triggers for each statement do not see all writes
END
for my $table (qw(fed.plain fed.parted))
{
	is((sqlstate_of($target, "SELECT rehome.resume_table('fed', '$table')"))[0], '42501', "$table is not resumed by a role that does not own it");
}
is($pair->sql_target($missed), 'error fed.parted, error fed.plain', 'preflight tells');
my $owner = $pair->sql_source('SELECT current_user');
$pair->sql_source(qq{GRANT "$owner" TO rehome_src});
is($pair->sql_target($missed), 'none', 'nothing to tell of who owns them');
call(q{SELECT rehome.resume_table('fed', 'fed.plain'), rehome.resume_table('fed', 'fed.parted')}, 'resumed by one');
call(q{CALL rehome.sync('fed')}, 'in sync');
$source->safe_psql('upstream', q{INSERT INTO fed.plain VALUES (1, 'fed'); INSERT INTO fed.parted VALUES (1, 'fed')});
ok(wait_until($source, q{SELECT (SELECT count(*) FROM fed.plain) + (SELECT count(*) FROM fed.parted) = 2}), 'fed');
call(q{CALL rehome.sync('fed')}, 'in sync with what was');
same_content($pair, [qw(fed.plain fed.parted)], 'what a subscription wrote');
call(q{CALL rehome.cutover('fed')}, 'cut over');
my $from = -s $source->logfile;
$source->safe_psql('upstream', q{INSERT INTO fed.plain VALUES (2, 'late')});
$source->wait_for_log(qr/ERROR:  table "fed\.plain"/, $from);
$pair->sql_source(q{ALTER SUBSCRIPTION feed DISABLE; ALTER SUBSCRIPTION feed SET (slot_name = NONE); DROP SUBSCRIPTION feed});
is($pair->sql_source(q{SELECT count(*) FROM fed.plain}), '1', 'the fence keeps it out');
call(q{CALL rehome.complete('fed')}, 'completed');
$pair->sql_source(qq{REVOKE "$owner" FROM rehome_src; DROP SCHEMA rehome_source CASCADE});

# The key of a target may be another index than the one its rows are published by.
my $loose = q{CREATE TABLE app.loose (id int PRIMARY KEY, v text)};
$pair->sql_source(qq{$loose; INSERT INTO app.loose SELECT i, 'v' || i FROM generate_series(1, 10) i});
$pair->grant_source('app');
$pair->sql_target(q{CREATE TABLE app.loose (id int NOT NULL, v text); CREATE UNIQUE INDEX loose_id ON app.loose (id)});
$pair->import_foreign_schema('app', 'loose', 'loose');
$pair->sql_target(q{SELECT rehome.create_migration('loose', 'src', 'a key and no identity'); SELECT rehome.add_table('loose', 'loose.loose', 'app.loose', key => '{id}')});
my $identity = q{SELECT coalesce(string_agg(severity || ' ' || object || ' ' || detail, ', '), 'none') FROM rehome.preflight('loose') WHERE detail LIKE '%replica identity%'};
is($pair->sql_target($identity), 'error app.loose is published, with its changes, by everything, and has no replica identity: updates and deletes of its rows are refused', 'preflight tells');
is((sqlstate_of($target, q{CALL rehome.copy('loose')}))[0], 'RH002', 'and nothing begins');
$pair->sql_target(q{ALTER TABLE app.loose REPLICA IDENTITY USING INDEX loose_id});
is($pair->sql_target($identity), 'none', 'with an identity there is nothing to tell');
call(q{CALL rehome.copy('loose')}, 'and it is copied');
$pair->sql_target(q{ALTER TABLE app.loose REPLICA IDENTITY DEFAULT});
$pair->sql_source(q{INSERT INTO app.loose VALUES (11, 'new')});
call(q{CALL rehome.sync('loose')}, 'it is taken away: rows that are new are no update');
$pair->sql_source(q{UPDATE app.loose SET v = v || '!' WHERE id = 1});
is((sqlstate_of($target, q{CALL rehome.sync('loose')}))[0], '55000', 'an update that subscribers could not follow is refused, as PostgreSQL does');
$pair->sql_target(q{ALTER TABLE app.loose REPLICA IDENTITY USING INDEX loose_id});
call(q{CALL rehome.sync('loose')}, 'with an identity it is in sync');
same_content($pair, ['app.loose'], 'with the same content');
call(q{CALL rehome.cancel('loose')}, 'cancelled');

# A copy that takes the key off, and then has to begin anew. Sources before 14 cannot be read in chunks.
my $heavy = q{CREATE TABLE app.heavy (id int PRIMARY KEY, v text)};
$pair->sql_source(qq{$heavy; INSERT INTO app.heavy SELECT i, CASE WHEN i = 5990 THEN 'bad' ELSE 'v' || i END FROM generate_series(1, 6000) i});
$pair->grant_source('app');
$pair->sql_target(qq{$heavy; ALTER TABLE app.heavy ADD CONSTRAINT no_bad CHECK (v <> 'bad')});
$pair->import_foreign_schema('app', 'heavy', 'heavy');
for my $identity ('DEFAULT', 'USING INDEX heavy_pkey')
{
	$pair->sql_source(q{UPDATE app.heavy SET v = 'bad' WHERE id = 5990});
	$pair->sql_target(qq{ALTER TABLE app.heavy REPLICA IDENTITY $identity; SELECT rehome.create_migration('heavy', 'src', 'a copy that fails'); SELECT rehome.add_table('heavy', 'heavy.heavy', 'app.heavy')});
	isnt((sqlstate_of($target, q{SET rehome.chunk_size = '64kB'; SET rehome.keep_indexes_below = 0; CALL rehome.copy('heavy')}))[0], '00000', "$identity: a copy fails");
	is($pair->sql_target(q{SELECT count(*) > 0 FROM app.heavy}) . ' ' . $pair->sql_target(q{SELECT count(*) FROM pg_index WHERE indrelid = 'app.heavy'::regclass}), $pair->source_version >= 140000 ? 't 0' : 'f 0', "$identity: when some rows were there, and no index");
	$pair->sql_source(q{UPDATE app.heavy SET v = 'good' WHERE id = 5990});
	$source->safe_psql('postgres', 'VACUUM FULL app.heavy');
	call(q{CALL rehome.copy('heavy')}, "$identity: a copy of a table that was rewritten meanwhile begins anew");
	call(q{CALL rehome.sync('heavy')}, "$identity: and is synced");
	same_content($pair, ['app.heavy'], "$identity: the same content");
	is($pair->sql_target(q{SELECT relreplident::text || ' ' || coalesce((SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = c.oid AND indisreplident), 'none') FROM pg_class c WHERE oid = 'app.heavy'::regclass}),
		$identity eq 'DEFAULT' ? 'd none' : 'i app.heavy_pkey', "$identity: its identity is what it was");
	call(q{CALL rehome.cancel('heavy')}, "$identity: cancelled");
	call(q{SELECT rehome.drop_migration('heavy'); TRUNCATE app.heavy}, "$identity: dropped");
}

done_testing();
