# Keys that one side takes for one, and that are two rows of the other: neither
# takes the place of the other one, here or there.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair();
my ($source, $target) = ($pair->source, $pair->target);
my %only = (source => 'own text DEFAULT $$there$$', target => 'here text DEFAULT $$here$$');
for my $side ('source', 'target')
{
	my $strict = $side eq 'source' ? 'text' : 'citext';
	my $loose  = $side eq 'source' ? 'citext' : 'text';
	my $any    = 'text COLLATE public.any_case';
	my $sql    = qq{
		CREATE EXTENSION citext;
		CREATE COLLATION public.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE SCHEMA app;
		CREATE TABLE app.plain (k $strict PRIMARY KEY, v int);
		CREATE TABLE app.kept (k $strict PRIMARY KEY, v int, $only{$side});
		CREATE TABLE app.uni (k $strict PRIMARY KEY, v int UNIQUE);
		CREATE TABLE app.pair (n numeric, k @{[$side eq 'source' ? 'text' : $any]}, v int, PRIMARY KEY (n, k));
		CREATE TABLE app.sieved (k $strict PRIMARY KEY, v int);
		CREATE TABLE app.marked (k $strict PRIMARY KEY, v int@{[$side eq 'target' ? ', gone bool' : '']});
		CREATE TABLE app.num (k numeric PRIMARY KEY, v int@{[$side eq 'target' ? ' CHECK (v < 1000)' : '']});
		CREATE TABLE app.lower (k text, n numeric, at @{[$side eq 'source' ? 'timestamp' : 'timestamptz']}, i int, t $strict, PRIMARY KEY (k, n, at, i, t));
		CREATE TABLE app.round (n numeric(@{[$side eq 'source' ? '10,3' : '12,2']}), m numeric(@{[$side eq 'source' ? '10,2' : '12,3']}), at timestamp@{[$side eq 'source' ? '' : '(0)']}, PRIMARY KEY (n, m, at));
		CREATE TABLE app.padded (k char(5) PRIMARY KEY, c @{[$side eq 'source' ? 'char(5)' : 'text']});
		CREATE TABLE app.said (k @{[$side eq 'source' ? 'char(5)' : 'text']} PRIMARY KEY, flag @{[$side eq 'source' ? 'text' : 'bool']}, net @{[$side eq 'source' ? 'inet' : 'text']});
		CREATE TABLE app.blank (k bpchar PRIMARY KEY, v int);
		CREATE TABLE app.list (k int[] PRIMARY KEY, v int);
		CREATE TABLE app.doc (k jsonb PRIMARY KEY, v int);
		CREATE TABLE app.back (k $loose PRIMARY KEY, v int, $only{$side});
		CREATE TABLE app.back_ignored (k $loose PRIMARY KEY, v int);
		CREATE TABLE app.back_marked (k $loose PRIMARY KEY, v int@{[$side eq 'target' ? ', gone bool' : '']});
		CREATE TABLE app.back_refused (k $loose PRIMARY KEY, v int@{[$side eq 'target' ? ' CHECK (v < 1000)' : '']});
		CREATE TABLE app.back_many (k $loose PRIMARY KEY, v int);
		CREATE TABLE app.same (k $any PRIMARY KEY, v int@{[$side eq 'target' ? ', here serial' : '']});
		CREATE TABLE app.same_sieved (k $any PRIMARY KEY, v int@{[$side eq 'target' ? ' CHECK (v < 1000), here serial' : '']});
		CREATE TABLE app.filed (k $any PRIMARY KEY, v int);
		CREATE TABLE app.reread (k $strict PRIMARY KEY, v int, $only{$side});
		@{[$side eq 'target' ? 'CREATE TABLE app.archive (k text, v int);' : '']}
		CREATE TABLE app.back_pair (n numeric, k @{[$side eq 'source' ? $any : 'text']}, v int, PRIMARY KEY (n, k));
	};
	$side eq 'source' ? $pair->sql_source($sql) : $pair->sql_target($sql);
}
my @one = qw(plain kept uni sieved marked back same same_sieved filed);
my @two = qw(pair back_pair);
$pair->sql_source(join ';', (map { "INSERT INTO app.$_ (k, v) SELECT 'Key ' || i, i FROM generate_series(1, 20) i" } @one),
	map { "INSERT INTO app.$_ SELECT i, 'Key ' || i, i FROM generate_series(1, 20) i" } @two);
$pair->sql_source(q{
	INSERT INTO app.padded SELECT i::text, 'a' FROM generate_series(1, 20) i;
	INSERT INTO app.said SELECT i::text, 't', '10.0.0.1' FROM generate_series(1, 20) i;
	INSERT INTO app.blank SELECT i::text, i FROM generate_series(1, 20) i;
	INSERT INTO app.list VALUES ('[0:1]={1,2}', 1), ('{1,2}', 2);
	INSERT INTO app.doc VALUES ('null', 1), ('"null"', 2)});
$pair->import_foreign_schema('app', 'far');
# what is declared as something else there is compared as it is there
$pair->sql_target(q{
	ALTER FOREIGN TABLE far.back ALTER k TYPE text;
	ALTER FOREIGN TABLE far.uni ALTER k TYPE citext;
	ALTER FOREIGN TABLE far.padded ALTER c TYPE text;
	ALTER FOREIGN TABLE far.said ALTER k TYPE text, ALTER flag TYPE bool, ALTER net TYPE text;
	SELECT rehome.create_migration('m', 'src', 'keys that are one here');
	SELECT rehome.add_table('m', 'far.' || t, ('app.' || t)::regclass) FROM unnest('{plain,kept,uni,pair,num,sieved,marked,padded,said,blank,list,doc,back,back_pair,back_ignored,back_marked,back_many,same,same_sieved,filed,reread,back_refused}'::text[]) AS t;
	SELECT rehome.set_table_rule('m', t, on_error => 'quarantine') FROM unnest('{app.sieved,app.num,app.same_sieved,app.reread,app.back_refused}'::regclass[]) AS t;
	SELECT rehome.set_table_rule('m', t, on_delete => 'mark', delete_column => 'gone') FROM unnest('{app.marked,app.back_marked}'::regclass[]) AS t;
	SELECT rehome.set_table_rule('m', 'app.back_ignored', on_delete => 'ignore');
	SELECT rehome.set_table_rule('m', 'app.filed', on_delete => 'archive', delete_archive => 'app.archive');
	CALL rehome.copy('m')});
my @content = map { my $n = /pair/ ? 'n, ' : ''; { source => "(SELECT ${n}k::text AS k, v FROM app.$_)", target => "(SELECT ${n}k::text AS k, v FROM app.$_" . (/marked/ ? ' WHERE gone IS NOT TRUE)' : ')') } } (@one, @two);

sub sync_is
{
	my ($sqlstate, $message, $name) = @_;
	my ($got, $said) = sqlstate_of($target, q{CALL rehome.sync('m')});
	is($got, $sqlstate, $name) || diag($said);
	like($said, $message, "$name: and says so") if defined $message;
	return;
}

# What a batch cannot see is told before.
$pair->sql_target(q{
	SELECT rehome.create_migration('w', 'src', 'keys that are made one');
	SELECT rehome.add_table('w', 'far.lower', 'app.lower', columns => '{"k": "lower(k)", "i": "n::int"}');
	SELECT rehome.add_table('w', 'far.round', 'app.round')});
is($pair->sql_target(q{SELECT string_agg(object || substring(detail, 'computed|type'), ',' ORDER BY object) FROM rehome.preflight('w') WHERE "check" = 'mapping' AND severity = 'warning' AND detail LIKE '%two rows of the source%'}),
	'app.lower.attype,app.lower.icomputed,app.lower.kcomputed,app.round.attype,app.round.ntype', 'preflight names the columns of keys that may not tell rows apart');
is($pair->sql_target(q{SELECT count(*) FROM rehome.preflight('m') WHERE detail LIKE '%two rows of the source%'}), 0, 'and only these');
$pair->sql_target(q{SELECT rehome.add_rule('w', 'app.round', 'n', 'copy', validation => 'value IS NOT NULL'); SELECT rehome.add_rule('w', 'app.round', 'at', 'cast')});
is($pair->sql_target(q{SELECT string_agg(object || substring(detail, 'computed|type'), ',' ORDER BY object) FROM rehome.preflight('w') WHERE detail LIKE '%two rows of the source%' AND object LIKE 'app.round%'}),
	'app.round.attype,app.round.ntype', 'also where they are cast, or validated');
$pair->sql_target(q{SELECT rehome.drop_migration('w')});

sync_is('00000', undef, 'in sync');
same_content($pair, \@content, 'the same on both sides');

# A second row for the target's one key.
for my $table (qw(plain kept uni pair marked))
{
	my $n = $table eq 'pair' ? '1, ' : '';
	$pair->sql_source("INSERT INTO app.$table VALUES (${n}'KEY 1', 100)");
	sync_is('23505', qr/two rows of the source have keys that are one to table "$table"/, "$table: a second row with what is one key here");
	is($pair->sql_target("SELECT v FROM app.$table WHERE k = 'Key 1'"), 1, "$table: the first row stays");
	my (undef, undef, $error) = $target->psql('postgres', q{CALL rehome.sync('m')});
	like($error, qr/Key \(.*k\)=\(.*Key 1\) is there, and key \(.*k\)=\(.*KEY 1\) comes/, "$table: which rows these are");
	$pair->sql_source("UPDATE app.$table SET k = 'Other', v = 101 WHERE v = 100");
	sync_is('00000', undef, "$table: with another key it comes");
	$pair->sql_source("UPDATE app.$table SET k = 'Third' WHERE v = 1; UPDATE app.$table SET k = 'KEY 1' WHERE v = 101; UPDATE app.$table SET v = 102 WHERE v = 2");
	sync_is('00000', undef, "$table: and with that one where the first has given it up");
	$pair->sql_source("DELETE FROM app.$table WHERE v = 3; INSERT INTO app.$table VALUES (${\($n ? '3, ' : '')}'KEY 3', 103); UPDATE app.$table SET k = lower(k) WHERE v = 4");
	sync_is('00000', undef, "$table: or is gone, or the row itself is spelled anew");
	$pair->sql_source("INSERT INTO app.$table VALUES (${\($n ? '30, ' : '')}'Twice', 104), (${\($n ? '30, ' : '')}'TWICE', 105)");
	sync_is('23505', undef, "$table: two that are new");
	$pair->sql_source("DELETE FROM app.$table WHERE v = 104");
	sync_is('00000', undef, "$table: one of them");
	same_content($pair, \@content, "$table: the same on both sides");
}
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('m') WHERE NOT ok}), 0, 'a verification finds nothing');
is($pair->sql_target(q{SELECT source_rows BETWEEN 1 AND 19 AND ok FROM rehome.verify('m', target => 'app.said', sample => 0.5)}), 't', 'nor does one of a sample');

# Where the keys that were touched do not tell which rows were, all are compared.
$pair->sql_source(q{UPDATE app.uni SET k = upper(k) WHERE v < 5; UPDATE app.blank SET k = k || ' ' WHERE v < 5; UPDATE app.padded SET c = 'b' WHERE k < '2'});
$pair->sql_source("UPDATE app.$_ SET v = v + 10") for qw(list doc);
is($pair->sql_target(q{SELECT string_agg(concat_ws(' ', target, ok, substring(note, '^all rows: .*|^\d+ rows touched')), ', ' ORDER BY target)
	FROM rehome.verify('m', incremental => true) WHERE target::text ~ 'uni|blank|list|doc|padded|said'}),
	'app.uni t all rows: key column k takes several keys for one, app.padded t 11 rows touched, app.said t 0 rows touched, '
	  . 'app.blank t all rows: key column k takes several keys for one, '
	  . join(', ', map { "app.$_ t all rows: JSON does not tell all values of key column k" } qw(list doc)), 'one of the touched rows finds nothing');

# What the foreign table says is not what the source has: its text counts.
$pair->sql_target("BEGIN; ALTER TABLE app.$_->[0] DISABLE TRIGGER ALL; UPDATE app.$_->[0] SET $_->[1] WHERE k ~ '^3 *\$'; ALTER TABLE app.$_->[0] ENABLE ALWAYS TRIGGER rehome_guard; ALTER TABLE app.$_->[0] ENABLE ALWAYS TRIGGER rehome_guard_truncate; COMMIT")
  for ['padded', q{c = 'a'}], ['said', q{net = '10.0.0.1/32'}];
for my $mode ('hash', 'rows')
{
	is($pair->sql_target(qq{SELECT string_agg(concat_ws(' ', target, missing, extra, differing), ', ' ORDER BY target) FROM rehome.verify('m', mode => '$mode') WHERE NOT ok}),
		'app.padded 0 0 1, app.said 0 0 1', "$mode: what differs is found");
}
$pair->sql_source(q{UPDATE app.padded SET c = c; UPDATE app.said SET net = net});
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('m', incremental => true) WHERE NOT ok}), 0, 'and put right');

# All of a table read again, where the rows stay in place.
$pair->sql_source(q{CREATE TEMP TABLE all_of AS SELECT * FROM app.kept; TRUNCATE app.kept;
	INSERT INTO app.kept (k, v) SELECT CASE WHEN v % 2 = 0 THEN upper(k) ELSE k END, v FROM all_of});
sync_is('00000', undef, 'all is read again, spelled anew');
same_content($pair, \@content, 'the same on both sides, spelled the same');

$pair->sql_source(q{INSERT INTO app.reread (k, v) SELECT 'Key ' || i, i FROM generate_series(1, 1100) i});
sync_is('00000', undef, 'more rows than a batch has out of quarantine');
$pair->sql_source(q{CREATE TEMP TABLE all_of AS SELECT * FROM app.reread; TRUNCATE app.reread; INSERT INTO app.reread SELECT upper(k), v, own FROM all_of});
sync_is('00000', undef, 'all is read again, spelled anew, with quarantine');
is($pair->sql_target(q{SELECT count(*) FILTER (WHERE k::text = 'KEY ' || v) || ' ' || (SELECT count(*) FROM rehome.quarantine) FROM app.reread}), '1100 0', 'and none of it is in quarantine');

# Where the source takes both for one, too, the row is the same one.
my $here = q{SELECT string_agg(here::text, ' ' ORDER BY v) FROM app.};
my %before = map { $_ => $pair->sql_target("$here$_") } qw(same same_sieved);
$pair->sql_source("UPDATE app.$_ SET k = upper(k) WHERE v IN (1, 2); UPDATE app.$_ SET k = 'Odd' WHERE v = 2; UPDATE app.$_ SET k = 'kEY 2' WHERE v = 2; UPDATE app.$_ SET k = upper(k), v = -v WHERE v = 3") for qw(same same_sieved filed);
sync_is('00000', undef, 'spelled anew, where both sides take that for one');
same_content($pair, \@content, 'the same on both sides, spelled the same');
$pair->sql_source("UPDATE app.$_ SET v = -v WHERE v < 0") for qw(same same_sieved filed);
sync_is('00000', undef, 'one is changed besides');
is($pair->sql_target("$here$_"), $before{$_}, "$_: what a row has at the target alone stays") for qw(same same_sieved);
is($pair->sql_target(q{SELECT count(*) FROM app.archive}), 0, 'filed: and none is put into the archive');
$pair->sql_source(q{UPDATE app.same_sieved SET k = 'kEY 4', v = 1004 WHERE v = 4; UPDATE app.filed SET k = 'kEY 4' WHERE v = 4; DELETE FROM app.filed WHERE v = 4});
sync_is('00000', undef, 'one is spelled anew and refused, one is spelled anew and gone');
is($pair->sql_target(q{SELECT string_agg(source_key->>'k', ',') || ' ' || (SELECT count(*) FROM app.same_sieved WHERE k = 'key 4') || ' ' || (SELECT string_agg(k, ',') FROM app.archive) FROM rehome.quarantine}),
	'kEY 4 0 Key 4', 'and not here by what it was called');
$pair->sql_source(q{UPDATE app.same_sieved SET k = 'Key 4', v = 4 WHERE v = 1004});
sync_is('00000', undef, 'it is mended');
same_content($pair, \@content, 'the same on both sides');

my $in_time = q{SET statement_timeout = '60s'; CALL rehome.sync('m')};
$pair->sql_source(q{INSERT INTO app.same SELECT 'Many ' || i, i FROM generate_series(1001, 31000) i});
sync_is('00000', undef, 'many rows');
$pair->sql_source(q{UPDATE app.same SET k = upper(k) WHERE v > 1000});
my ($sqlstate, $said) = sqlstate_of($target, $in_time);
is($sqlstate, '00000', 'many are spelled anew in no long time') || diag($said);
$pair->sql_source(q{DELETE FROM app.same WHERE v > 1000});
sync_is('00000', undef, 'and are gone');

# Quarantine has the second one, and the first is not what goes with it.
$pair->sql_source(q{INSERT INTO app.sieved VALUES ('KEY 1', 100), ('New', 101), ('NEW', 101)});
sync_is('00000', undef, 'with quarantine, the batch goes on');
is($pair->sql_target(q{SELECT string_agg(source_row->>'v', ',' ORDER BY source_row->>'v') FROM rehome.quarantine WHERE sqlstate = '23505'}), '100,101', 'the second ones are in quarantine');
is($pair->sql_target(q{SELECT string_agg(v::text, ',' ORDER BY v) FROM app.sieved WHERE k IN ('key 1', 'new')}), '1,101', 'the first ones are here');
$pair->sql_source(q{UPDATE app.sieved SET v = 103 WHERE k = 'KEY 1'});
sync_is('00000', undef, 'the second is changed');
is($pair->sql_target(q{SELECT string_agg(v::text, ',' ORDER BY v) FROM app.sieved WHERE k IN ('key 1', 'new')}), '1,101', 'the first ones are here still');
$pair->sql_source(q{DELETE FROM app.sieved WHERE k = 'KEY 1'; DELETE FROM app.sieved WHERE k = 'New'});
sync_is('00000', undef, 'one of each is deleted');
same_content($pair, \@content, 'the other one is here');
is($pair->sql_target(q{SELECT count(*) FROM rehome.quarantine}), 0, 'and none in quarantine');

# One row, of a key that both sides compare alike, is mended by another spelling.
$pair->sql_source(q{INSERT INTO app.num VALUES (1.0, 2000), (2.0, 2000), (3.0, 3)});
sync_is('00000', undef, 'rows are refused');
$pair->sql_source(q{UPDATE app.num SET k = 1.00, v = 1 WHERE k = 1; UPDATE app.num SET k = 2.00 WHERE k = 2; UPDATE app.num SET v = 4 WHERE k = 3});
sync_is('00000', undef, 'one is mended, one is not, both are spelled anew');
is($pair->sql_target(q{SELECT string_agg(source_key->>'k', ',') FROM rehome.quarantine}), '2.00', 'the one that is not is in quarantine, as it is spelled now');
is($pair->sql_target(q{SELECT string_agg(k || ' ' || v, ',' ORDER BY k) FROM app.num}), '1.00 1,3.0 4', 'the others are here');
$pair->sql_source(q{DELETE FROM app.num});
sync_is('00000', undef, 'all are gone');
is($pair->sql_target(q{SELECT count(*) FROM rehome.quarantine}), 0, 'and none in quarantine');

# The way back, where the source has the looser key.
$pair->sql_source("INSERT INTO app.$_ VALUES ('Key 1', 1), ('Key 2', 2); DELETE FROM app.$_") for qw(back_ignored back_marked);
$pair->sql_source("INSERT INTO app.$_ VALUES ('Key 1', 1), ('Key 2', 2)") for qw(back_ignored back_marked);
sync_is('00000', undef, 'rows that are to go');
$pair->sql_source("DELETE FROM app.$_") for qw(back_ignored back_marked);
sync_is('00000', undef, 'and stay here');
$pair->sql_source("INSERT INTO app.$_ VALUES ('KEY 1', 101), ('KEY 2', 102)") for qw(back_ignored back_marked);
$pair->sql_source("INSERT INTO app.back_refused VALUES ('Key 1', 2001), ('Key 2', 2002), ('Key 3', 2003)");
sync_is('00000', undef, 'others, of keys that are the same there, come');
is($pair->sql_target(q{SELECT rehome.accept_quarantine('m', 'they stay there')}), 3, 'some are refused');
$pair->sql_target(q{CALL rehome.cutover('m')});
for my $table (qw(back back_pair))
{
	my $n = $table eq 'back' ? '' : '1, ';
	$pair->sql_target("INSERT INTO app.$table VALUES (${n}'KEY 1', 100)");
	sync_is('23505', qr/rows written to "$table" since cutover have keys that the source takes for those of others/, "$table: a second row with what is one key there");
	is($pair->sql_source("SELECT k || ' ' || v FROM app.$table WHERE k = 'Key 1'"), 'Key 1 1', "$table: the first one stays");
	$pair->sql_target("UPDATE app.$table SET k = 'Other' WHERE v = 100");
	sync_is('00000', undef, "$table: with another key it goes");
	$pair->sql_target("UPDATE app.$table SET k = 'Third' WHERE v = 1; UPDATE app.$table SET k = 'KEY 1' WHERE v = 100; UPDATE app.$table SET k = upper(k) WHERE v IN (2, 3)");
	sync_is('00000', undef, "$table: and with that one where the first has given it up");
	$pair->sql_target("INSERT INTO app.$table VALUES (${n}'Two', 101), (${n}'TWO', 102)");
	sync_is('23505', undef, "$table: two that are new");
	$pair->sql_target("DELETE FROM app.$table WHERE v = 101");
	sync_is('00000', undef, "$table: one of them");
	same_content($pair, \@content, "$table: the same on both sides");
}
# What is not there does not take away what is, nor take its place.
$pair->sql_target("DELETE FROM app.$_ WHERE k = 'Key 1'; UPDATE app.$_ SET v = 3 WHERE k = 'Key 2'") for qw(back_ignored back_marked);
sync_is('00000', undef, 'rows that are here alone are gone, or changed');
is($pair->sql_source("SELECT string_agg(k || ' ' || v, ',' ORDER BY v) FROM app.$_"), 'KEY 1 101,KEY 2 102', "$_: the others are there still") for qw(back_ignored back_marked);
$pair->sql_target("DELETE FROM app.$_ WHERE k = 'KEY 1'; UPDATE app.$_ SET k = 'KEy 2', v = 103 WHERE k = 'KEY 2'") for qw(back_ignored back_marked);
sync_is('00000', undef, 'and when these are gone, or changed');
is($pair->sql_source("SELECT string_agg(k || ' ' || v, ',' ORDER BY v) FROM app.$_"), 'KEy 2 103', "$_: so they are there") for qw(back_ignored back_marked);
# A row of a key that was refused takes the place of that one, as the source has keys.
$pair->sql_target(q{INSERT INTO app.back_refused VALUES ('KEY 1', 1), ('KEY 2', 2), ('Key 3', 3); DELETE FROM app.back_refused WHERE k = 'KEY 2'});
sync_is('00000', undef, 'rows of keys that were refused');
is($pair->sql_source(q{SELECT string_agg(k || ' ' || v, ',' ORDER BY k) FROM app.back_refused}), 'KEY 1 1,Key 2 2002,Key 3 3', 'take the place of these, unless they are gone again');
is($pair->sql_target(q{SELECT string_agg(source_key->>'k', ',') FROM rehome.quarantine}), 'Key 2', 'which have left the quarantine');
$pair->sql_target(q{INSERT INTO app.back_many SELECT 'Key ' || i, i FROM generate_series(1, 20000) i});
($sqlstate, $said) = sqlstate_of($target, $in_time);
is($sqlstate, '00000', 'many rows go back in no long time') || diag($said);
$pair->sql_target(q{INSERT INTO app.back_ignored SELECT 'Many ' || i, i FROM generate_series(1001, 21000) i});
sync_is('00000', undef, 'many rows that are not to be deleted');
$pair->sql_target(q{UPDATE app.back_ignored SET k = upper(k) WHERE v > 1000; UPDATE app.back_many SET k = upper(k)});
($sqlstate, $said) = sqlstate_of($target, $in_time);
is($sqlstate, '00000', 'many are spelled anew in no long time') || diag($said);
is($pair->sql_source("SELECT count(*) FILTER (WHERE k::text COLLATE \"C\" = upper(k::text)) FROM app.$_"), 20000, "$_: and are spelled so") for qw(back_ignored back_many);
# One that was analyzed while its rows were being loaded is taken for empty.
$pair->sql_target(q{BEGIN; CREATE TEMP TABLE all_of AS SELECT * FROM app.back_ignored WHERE k <> 'Key 2'; TRUNCATE app.back_ignored; INSERT INTO app.back_ignored SELECT * FROM all_of;
	UPDATE app.back_ignored SET k = 'key 2' WHERE v = 103; UPDATE pg_class SET reltuples = 0, relpages = 100 WHERE oid = 'app.back_ignored'::regclass; COMMIT});
($sqlstate, $said) = sqlstate_of($target, q{SET statement_timeout = '8s'; CALL rehome.sync('m')});
is($sqlstate, '00000', 'all goes back, one spelled anew, in no long time') || diag($said);
is($pair->sql_source(q{SELECT (SELECT string_agg(k, ',') FROM app.back_ignored WHERE k = 'key 2') || ' ' || count(*) FROM app.back_ignored}), 'key 2 20001', 'and is there');
$pair->sql_target("UPDATE app.$_ SET k = lower(k) WHERE v IN (5, 6)") for @one, @two;
$pair->sql_target(q{CALL rehome.rollback('m')});
same_content($pair, \@content, 'rolled back');
$pair->sql_source("UPDATE app.$_ SET k = upper(k) WHERE v = 6; UPDATE app.$_ SET v = 500 WHERE v = 5") for @one, @two;
sync_is('00000', undef, 'and on');
same_content($pair, \@content, 'the same on both sides');

# A source that spells keys its own way: a row that is written as 'New' is 'new' there.
$pair->sql_source(q{
	CREATE SCHEMA own; CREATE TABLE own.lower (k citext PRIMARY KEY, v int); INSERT INTO own.lower VALUES ('old', 1);
	CREATE FUNCTION own.lower() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.k := lower(NEW.k::text); RETURN NEW; END$$;
	CREATE TRIGGER lower BEFORE INSERT OR UPDATE ON own.lower FOR EACH ROW EXECUTE FUNCTION own.lower();
	ALTER TABLE own.lower ENABLE ALWAYS TRIGGER lower});
$pair->sql_target(q{CREATE SCHEMA own; CREATE TABLE own.lower (k text PRIMARY KEY, v int)});
$pair->import_foreign_schema('own', 'far_own');
$pair->sql_target(q{SELECT rehome.create_migration('n', 'src', 'spelled by a trigger'); SELECT rehome.add_table('n', 'far_own.lower', 'own.lower');
	CALL rehome.copy('n'); CALL rehome.cutover('n')});
for my $sql (q{INSERT INTO own.lower VALUES ('New', 2), ('Newer', 3)}, q{UPDATE own.lower SET v = v + 10 WHERE k <> 'old'}, q{DELETE FROM own.lower WHERE k = 'New'})
{
	$pair->sql_target($sql);
	is((sqlstate_of($target, q{CALL rehome.sync('n')}))[0], '00000', "keys that a trigger of the source spells: $sql");
}
is($pair->sql_source(q{SELECT string_agg(k || ' ' || v, ', ' ORDER BY v) FROM own.lower}), 'old 1, newer 13', 'are followed');

done_testing();
