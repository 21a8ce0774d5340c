# What the source has been brought although this side did not keep it: the source
# commits first on the way back; and what either side has of a row that the other
# one takes for something else.  No worker, which would be faster.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(dbname => 'back', target_conf => 'max_worker_processes = 0');
my ($source, $target) = ($pair->source, $pair->target);

# cut_over NAME, SQL at the source, SQL at the target, tables and rules
sub cut_over
{
	my ($name, $there, $here, @tables) = @_;
	my @rules = grep { /^SELECT/ } @tables;
	@tables = grep { !/^SELECT/ } @tables;
	$pair->sql_source($there);
	$pair->sql_target($here);
	$pair->import_foreign_schema('public', 'src', @tables);
	$pair->sql_target("SELECT rehome.create_migration('$name', 'src', 'the way back')");
	$pair->sql_target("SELECT rehome.add_table('$name', 'src.$_', '$_')") for @tables;
	$pair->sql_target($_) for @rules;
	$pair->sql_target("CALL rehome.copy('$name')");
	$pair->sql_target("CALL rehome.cutover('$name')");
	return;
}

# A partition whose rows a verification has brought is on record from then on.
cut_over('p', 'CREATE TABLE part (id int, n int, PRIMARY KEY (id, n)); INSERT INTO part SELECT i, i % 2 FROM generate_series(1, 20) AS i',
	'CREATE TABLE part (id int, n int, PRIMARY KEY (id, n)) PARTITION BY RANGE (n); CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (2)', 'part');
for (['DROP TABLE part_2', 'dropped'], ['TRUNCATE part_2', 'emptied'])
{
	my ($sql, $name) = @$_;
	$pair->sql_target(q{CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (2) TO (3); INSERT INTO part SELECT i, 2 FROM generate_series(101, 105) AS i});
	is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('p')}), 't', "a partition that is $name: verified first");
	is($pair->sql_source('SELECT count(*) FROM part WHERE n = 2'), '5', "a partition that is $name: its rows were brought");
	$pair->sql_target($sql);
	$pair->sql_target(q{CALL rehome.sync('p')});
	same_content($pair, ['part'], "a partition that is $name: its rows are gone");
}

# Rows that no trigger has seen are none that a verification has not to look at.
cut_over('a', 'CREATE TABLE alt (id int PRIMARY KEY, v text); INSERT INTO alt SELECT i, i FROM generate_series(1, 10) AS i', 'CREATE TABLE alt (id int PRIMARY KEY, v text)', 'alt');
sub incremental { return $pair->sql_target(q{SELECT concat_ws(' ', missing, extra, differing, coalesce(substring(note, '^all rows: .*|^\d+ rows touched'), 'all')) FROM rehome.verify('a', incremental => true)}) }
is($pair->sql_target(q{SELECT ok FROM rehome.verify('a')}) . ', ' . incremental(), 't, 0 0 0 0 rows touched', 'nothing has happened: no row is looked at');
for my $rewrite ([ target => '10 all rows: the target was altered since' ], [ source => '10 all rows: the source was altered since' ])
{
	my ($side, $found) = @$rewrite;
	$pair->$side->safe_psql('back', q{ALTER TABLE alt ALTER v TYPE text USING v || '!'});
	is(incremental(), "0 0 $found", "altered at the $side: all are");
	$pair->sql_target(q{CALL rehome.sync('a')});
	like(incremental(), qr/^0 0 0 all rows: /, "altered at the $side: brought back");
	is(incremental(), '0 0 0 0 rows touched', "altered at the $side: once");
}

# What the caller cannot commit is not brought by a call that commits.
cut_over('w', 'CREATE TABLE dup (id int PRIMARY KEY, v int); INSERT INTO dup SELECT i, i FROM generate_series(1, 10) AS i',
	'CREATE TABLE dup (id int PRIMARY KEY, v int UNIQUE DEFERRABLE INITIALLY DEFERRED)', 'dup');
for my $call (qw(rollback complete))
{
	is((sqlstate_of($target, qq{DO \$\$BEGIN INSERT INTO dup VALUES (11, 1); CALL rehome.$call('w'); END\$\$}, 'back'))[0], '23505', "$call: the caller's write cannot be committed");
	is($pair->sql_target(q{SELECT state FROM rehome.status WHERE migration = 'w'}), 'cut_over', "$call: so nothing has happened");
	same_content($pair, ['dup'], "$call: nor at the source");
}
$pair->sql_target(q{DO $$BEGIN INSERT INTO dup VALUES (11, 11); CALL rehome.rollback('w'); END$$});
is($pair->sql_source('SELECT v FROM dup WHERE id = 11'), '11', 'what it can is');
same_content($pair, ['dup'], 'on both sides');

# Triggers of the source that no role keeps from firing.
cut_over('t', q{CREATE TABLE doc (id int PRIMARY KEY, v text, changed int NOT NULL DEFAULT 0); CREATE TABLE audit (id int PRIMARY KEY, v text);
	INSERT INTO doc SELECT i, i FROM generate_series(1, 10) AS i;
	CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.changed := OLD.changed + 1; RETURN NEW; END$$;
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.audit VALUES (NEW.id, NEW.v); RETURN NULL; END$$;
	CREATE TRIGGER touch BEFORE UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION touch(); ALTER TABLE doc ENABLE ALWAYS TRIGGER touch;
	CREATE TRIGGER note AFTER UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE doc ENABLE REPLICA TRIGGER note},
	'CREATE TABLE doc (id int PRIMARY KEY, v text, changed int NOT NULL DEFAULT 0); CREATE TABLE audit (id int PRIMARY KEY, v text)', 'doc', 'audit');
$pair->sql_target(q{UPDATE doc SET v = 'here' WHERE id < 3; CALL rehome.rollback('t'); CALL rehome.sync('t')});
is($pair->sql_source(q{SELECT string_agg(d::text, ' ' ORDER BY id) FROM doc AS d WHERE changed > 0}) . ' ' . $pair->sql_source('SELECT count(*) FROM audit'),
	'(1,here,1) (2,here,1) 2', 'triggers that fire in replica role have fired');
same_content($pair, ['doc', 'audit'], 'what they wrote is at the target after a rollback');

# Labels of an enum of the target are called differently: the same rows are others,
# whoever has authority.
my $mood = q{CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE TABLE felt (id int PRIMARY KEY, m mood)};
cut_over('e', "$mood; INSERT INTO felt SELECT i, CASE WHEN i > 5 THEN 'ok'::mood ELSE 'bad' END FROM generate_series(1, 10) AS i", $mood, 'felt');
$pair->sql_target(q{CALL rehome.sync('e'); ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'; ALTER TYPE mood RENAME VALUE 'bad' TO 'ok'});
is((sqlstate_of($target, q{CALL rehome.sync('e')}, 'back'))[0], '22P02', 'a label that the source does not know');
$pair->sql_source(q{ALTER TYPE mood ADD VALUE 'fine'});
$pair->sql_target(q{CALL rehome.sync('e')});
same_content($pair, ['felt'], 'and with it: brought back as a whole');
is($pair->sql_source(q{SELECT string_agg(m::text, ' ' ORDER BY id) FROM felt WHERE id IN (5, 6)}), 'ok fine', 'as they are called at the target');
$pair->sql_target(q{CALL rehome.rollback('e'); CALL rehome.sync('e')});
$pair->sql_target(q{ALTER TYPE mood RENAME VALUE 'fine' TO 'well'; ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'; ALTER TYPE mood RENAME VALUE 'well' TO 'ok'});
$pair->sql_target(q{CALL rehome.sync('e')});
same_content($pair, ['felt'], 'while the source has authority: read as a whole');

# Values that the source's type rounds are what it has made of them, after a rollback.
cut_over('r', q{CREATE TABLE num (id int PRIMARY KEY, n numeric(10, 2)); CREATE TABLE flo (id int PRIMARY KEY, f real); CREATE TABLE tim (id int PRIMARY KEY, t timestamp(0));
	CREATE TABLE wide (id int PRIMARY KEY, n numeric(10, 2)); INSERT INTO num VALUES (1, 1); INSERT INTO flo VALUES (1, 1); INSERT INTO tim VALUES (1, '2024-01-01'); INSERT INTO wide VALUES (1, 1)},
	q{CREATE TABLE num (id int PRIMARY KEY, n numeric); CREATE TABLE flo (id int PRIMARY KEY, f float8); CREATE TABLE tim (id int PRIMARY KEY, t timestamp); CREATE TABLE wide (id int PRIMARY KEY, n numeric(12, 2))},
	qw(num flo tim wide));
$pair->sql_target(q{UPDATE num SET n = 1.005; UPDATE flo SET f = 0.123456789012; UPDATE tim SET t = '2024-01-01 12:00:00.6'; CALL rehome.rollback('r')});
is($pair->sql_target(q{SELECT string_agg(target::text, ' ' ORDER BY target::text) FROM rehome.table_map WHERE source_print = 'lossy' AND target::text IN ('num', 'flo', 'tim', 'wide')}), 'flo num tim', 'tables whose values are rounded are read as a whole');
$pair->sql_target(q{CALL rehome.sync('r')});
same_content($pair, [ qw(num tim wide), { source => '(SELECT id, f::float8 FROM flo)', target => 'flo' } ], 'values that were rounded are the same on both sides');

# So are those that the source's type spells otherwise, and those whose way back
# restores a part only. By type of the source, type of the target, the rule, a value
# that is there, one that is written here; and whether the table is to be read again.
my @pairs = (
	[ 'int', 'text', '', q{1}, q{'007'}, 1 ], [ 'boolean', 'text', '', q{true}, q{'yes'}, 1 ], [ 'jsonb', 'text', '', q{'{}'}, q{'{"a":1}'}, 1 ],
	[ 'numeric', 'text', '', q{1}, q{'1e2'}, 1 ], [ 'float8', 'numeric', '', q{1}, q{0.12345678901234567891}, 1 ], [ 'date', 'text', '', q{'2024-01-01'}, q{'20240102'}, 1 ],
	[ 'numeric(10,2)', 'numeric', 'cast', q{1}, q{1.005}, 1 ], [ 'int', 'numeric', 'cast', q{1}, q{1.5}, 1 ], [ 'boolean', 'int', 'cast', q{true}, q{5}, 1 ],
	[ 'numeric(10,2)', 'int', 'valid', q{1}, q{5}, 1 ], [ 'numeric(10,2)', 'numeric', 'valid', q{1}, q{1.005}, 1 ],
	[ 'int', 'numeric', 'half', q{1}, q{1.005}, 1 ], [ 'text', 'text', 'map', q{'a'}, q{'C'}, 0 ],
	[ 'int', 'bigint', '', q{1}, q{2}, 0 ], [ 'int', 'bigint', 'cast', q{1}, q{2}, 0 ], [ 'varchar(20)', 'text', '', q{'a'}, q{'b '}, 0 ],
	[ 'timestamp', 'timestamptz', '', q{'2024-01-01'}, q{'2024-01-02 12:00+02'}, 0 ], [ 'numeric(10,4)', 'numeric(10,2)', '', q{1}, q{1.05}, 0 ],
	[ 'json', 'jsonb', '', q{'{}'}, q{'{"a":1}'}, 0 ], [ 'tenth', 'int', '', q{1}, q{2}, 0 ], [ 'cents', 'numeric', '', q{1}, q{1.005}, 1 ],
	[ 'text', 'text', 'valid', q{'a'}, q{'b'}, 0 ], [ 'uuid', 'uuid', '', q{'00000000-0000-0000-0000-00000000000a'}, q{'00000000-0000-0000-0000-00000000000b'}, 0 ]);
my %rule = (
	cast  => q{SELECT rehome.add_rule('s', '%s', 'v', 'cast')},
	valid => q{SELECT rehome.add_rule('s', '%s', 'v', 'copy', validation => 'value IS NOT NULL')},
	half  => q{SELECT rehome.map_column('s', '%s', 'v', 'v / 100.0', inverse => 'round(v * 100)::int')},
	map   => q{SELECT rehome.add_rule('s', '%s', 'v', 'value_map', '{"map": {"a": "A", "c": "C"}}')});
$_->(q{CREATE DOMAIN tenth AS int CHECK (VALUE < 10); CREATE DOMAIN cents AS numeric(10,2)}) for sub { $pair->sql_source(@_) }, sub { $pair->sql_target(@_) };
for my $n (0 .. $#pairs)
{
	my ($from, $to, $rule, $there) = @{ $pairs[$n] };
	$pair->sql_source("CREATE TABLE pair_$n (id int PRIMARY KEY, v $from); INSERT INTO pair_$n VALUES (1, $there), (2, $there)");
	$pair->sql_target("CREATE TABLE pair_$n (id int PRIMARY KEY, v $to)");
}
$pair->import_foreign_schema('public', 'src', map { "pair_$_" } 0 .. $#pairs);
$pair->sql_target(q{SELECT rehome.create_migration('s', 'src', 'the way back')});
for my $n (0 .. $#pairs)
{
	my $rule = $pairs[$n][2];
	my $columns = $rule ne '' ? q{, columns => '{"v": null}'} : '';
	$pair->sql_target("SELECT rehome.add_table('s', 'src.pair_$n', 'pair_$n'$columns)");
	$pair->sql_target(sprintf $rule{$rule}, "pair_$n") if $rule ne '';
}
$pair->sql_target(q{CALL rehome.copy('s')});
$pair->sql_target(q{CALL rehome.cutover('s')});
$pair->sql_target("UPDATE pair_$_ SET v = $pairs[$_][4] WHERE id = 1") for 0 .. $#pairs;
my ($kept) = grep { $pairs[$_][1] eq 'int' && $pairs[$_][2] eq 'valid' } 0 .. $#pairs;
is($pair->sql_target("SELECT ok FROM rehome.verify('s', mode => 'rows') WHERE target = 'pair_$kept'::regclass"), 't',
	'a column that is validated, and has no way back, is not compared with what did not come');
$pair->sql_target(q{CALL rehome.rollback('s')});
is($pair->sql_target(q{SELECT string_agg(target::text, ' ' ORDER BY id) FROM rehome.table_map WHERE source_print = 'lossy' AND target::text LIKE 'pair_%'}),
	join(' ', map { "pair_$_" } grep { $pairs[$_][5] } 0 .. $#pairs), 'tables whose values may be others are read as a whole');
$pair->sql_target(q{CALL rehome.sync('s')});
is($pair->sql_target(q{SELECT coalesce(string_agg(target::text, ' '), 'none') FROM rehome.verify('s', mode => 'rows') WHERE NOT ok}), 'none',
	'what was written here is what the rules make of what came back');

# So are values that the source's type writes in its own way.
cut_over('o', q{CREATE TABLE no (id int PRIMARY KEY, v int); CREATE TABLE paper (id int PRIMARY KEY, d jsonb); CREATE TABLE pad (id int PRIMARY KEY, c char(5)); CREATE TABLE dbl (id int PRIMARY KEY, f float8);
	CREATE TABLE letter (id int PRIMARY KEY, c varchar(9), n int); INSERT INTO no VALUES (7, 7); INSERT INTO paper VALUES (1, '{"a": 1}'); INSERT INTO pad VALUES (1, 'a'); INSERT INTO dbl VALUES (1, 1); INSERT INTO letter VALUES (1, 'a', 1)},
	q{CREATE TABLE no (id text PRIMARY KEY, v int); CREATE TABLE paper (id int PRIMARY KEY, d text); CREATE TABLE pad (id int PRIMARY KEY, c text); CREATE TABLE dbl (id int PRIMARY KEY, f numeric); CREATE TABLE letter (id int PRIMARY KEY, c text, n bigint)},
	qw(no paper pad dbl letter));
is($pair->sql_target(q{SELECT string_agg(object, ' ') FROM rehome.preflight('o') WHERE "check" = 'reverse' AND detail LIKE '%part of the key%'}), 'public.no.id', 'preflight names the key of which the source takes several values for one');
$pair->sql_target(q{UPDATE no SET id = '007'; UPDATE paper SET d = '{"a":2}'; UPDATE pad SET c = 'b  '; UPDATE dbl SET f = 0.1234567890123456789; CALL rehome.rollback('o')});
is($pair->sql_target(q{SELECT string_agg(target::text, ' ' ORDER BY target::text) FROM rehome.table_map WHERE source_print = 'lossy' AND target::text IN ('no', 'paper', 'pad', 'dbl', 'letter')}), 'dbl no pad paper', 'tables whose values are written otherwise are read as a whole');
$pair->sql_source(q{UPDATE no SET v = 8});
$pair->sql_target(q{CALL rehome.sync('o')});
is($pair->sql_target(q{SELECT string_agg(id || ' ' || v, ',') FROM no}) . $pair->sql_target('SELECT d FROM paper') . $pair->sql_target(q{SELECT '(' || c || ')' FROM pad}), '7 8{"a": 2}(b)', 'they are what the source has');
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('o') WHERE NOT ok}), 0, 'and a verification finds nothing');

# And those that a rule writes in its own way, whatever its inverse.
cut_over('i', 'CREATE TABLE mail (id int PRIMARY KEY, m text)', 'CREATE TABLE mail (id int PRIMARY KEY, m text)', 'mail', q{SELECT rehome.map_column('i', 'mail', 'm', 'lower(m)', inverse => 'm', inverse_column => 'm')});
$pair->sql_target(q{INSERT INTO mail VALUES (1, 'Me@Here'); CALL rehome.rollback('i'); CALL rehome.sync('i')});
is($pair->sql_source('SELECT m FROM mail') . ' ' . $pair->sql_target('SELECT m FROM mail'), 'Me@Here me@here', 'a rule gives what it gives of what was brought back');
is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('i')}), 't', 'and a verification finds nothing');

# Nobody waits for what a verification brings, so it may take its time.
cut_over('v', 'CREATE TABLE timed (id int PRIMARY KEY, v text)', 'CREATE TABLE timed (id int PRIMARY KEY, v text)', 'timed');
$pair->sql_target(q{INSERT INTO timed SELECT i, repeat('x', 100) FROM generate_series(1, 30000) AS i});
my ($sqlstate, $said) = sqlstate_of($target, q{SET rehome.freeze_timeout = '20ms'; DO $$ BEGIN ASSERT (SELECT bool_and(ok) FROM rehome.verify('v')); END $$}, 'back');
is($sqlstate, '00000', 'a verification brings what there is, however long it takes') || diag($said);

# A fence that somebody opens by hand: what the error says closes it again, and what
# was written there meanwhile is named.
cut_over('f', q{CREATE TABLE fenced (id int PRIMARY KEY, v text); INSERT INTO fenced SELECT i, i FROM generate_series(1, 10) AS i}, 'CREATE TABLE fenced (id int PRIMARY KEY, v text)', 'fenced');
{
	my $fence = $pair->sql_source(q{SELECT format('SELECT rehome_source.set_fence(%L, %s, false, %L)', s.token, s.slice, '') FROM rehome_source.slice s
		JOIN pg_trigger t ON t.tgrelid = 'fenced'::regclass AND t.tgname LIKE 'rehome\_fence\_' || s.token || '\_%' LIMIT 1});
	$pair->sql_source("$fence; UPDATE fenced SET v = 'there' WHERE id IN (1, 2)");
	$pair->sql_target(q{UPDATE fenced SET v = 'here' WHERE id IN (2, 3)});
	for my $call ('CALL rehome.sync', 'CALL rehome.recover', 'CALL rehome.rollback', 'SELECT * FROM rehome.verify')
	{
		my ($sqlstate, undef, undef, $hint) = sqlstate_of($target, "$call('f')", 'back');
		is($sqlstate, 'RH008', "an open fence: $call");
		($fence) = $hint =~ /(SELECT rehome_source[.]set_fence[^;]*;)/;
	}
	$pair->sql_source($fence);
	$pair->sql_target(q{CALL rehome.sync('f')});
	is((sqlstate_of($source, q{UPDATE fenced SET v = 'again'}, 'back'))[0], '25006', 'an open fence: closed as the hint says');
	is($pair->sql_source(q{SELECT string_agg(v, ' ' ORDER BY id) FROM fenced WHERE id < 4}), 'there here here', 'an open fence: what was written here is brought there');
	is($pair->sql_target(q{SELECT ok FROM rehome.verify('f')}) . $pair->sql_target(q{SELECT string_agg(key::text, ' ') FROM rehome.discrepancy WHERE migration = 'f'}), 'f{"id": 1}',
		'an open fence: what was written there is named');
}

# Numbers that a session has taken from a sequence in advance, while writes were
# refused there, are not given out after the switch: the other side may have used them.
cut_over('n', (map { "CREATE SEQUENCE taken CACHE 10; CREATE TABLE numbered (id int PRIMARY KEY DEFAULT nextval('taken'), v text)$_" } q{; INSERT INTO numbered (v) VALUES ('first')}, ''), 'numbered');
{
	my $insert = q{INSERT INTO numbered (v) VALUES ('a session that stays') RETURNING id};
	my %session = map { $_ => $pair->$_->background_psql('back', on_error_stop => 0) } qw(source target);
	my $ids = q{INSERT INTO numbered (v) SELECT 'many' FROM generate_series(1, 40) RETURNING id};
	$session{source}->query_safe(q{SELECT nextval('taken')});
	$pair->sql_target($ids);
	$pair->sql_target(q{CALL rehome.rollback('n')});
	like($session{source}->query($insert), qr/^\d+$/, 'taken in advance: rolled back');
	$session{target}->query_safe(q{SELECT nextval('taken')});
	$pair->sql_source($ids);
	# who has taken one, and not ended his transaction, is not waited for for ever
	my $open = $target->background_psql('back');
	$open->query_safe(q{BEGIN; SELECT nextval('taken') FROM generate_series(1, 100)});
	my ($sqlstate, $message, $detail) = sqlstate_of($target, q{CALL rehome.cutover('n')}, 'back');
	is("$sqlstate $message", 'RH004 could not lock sequence public.taken within 500 ms', 'taken in advance: not for ever');
	like($detail, qr/^pid \d+ .* holds RowExclusiveLock on public\.taken/, 'taken in advance: by whom');
	$open->query_safe('COMMIT');
	$open->quit;
	$pair->sql_target(q{CALL rehome.cutover('n')});
	like($session{target}->query($insert), qr/^\d+$/, 'taken in advance: cut over');
	$_->quit for values %session;
	is($pair->sql_target('SELECT count(*) FROM numbered'), '83', 'taken in advance: no row was refused');
}

# A rollback that is only to be finished does without, and says so.
cut_over('l', (map { "CREATE SEQUENCE kept CACHE 10; CREATE TABLE ended (id int PRIMARY KEY DEFAULT nextval('kept'), v text)$_" } q{; INSERT INTO ended (v) VALUES ('first')}, ''), 'ended');
{
	my $session = $target->background_psql('back', on_error_stop => 0);
	$session->query(q{BEGIN; CALL rehome.rollback('l')});
	my $there = q{FROM pg_stat_activity WHERE application_name = 'pg_rehome rollback l/main'};
	$pair->sql_source("SELECT pg_terminate_backend(pid) $there");
	ok(wait_until($source, "SELECT count(*) = 0 $there", undef, 'back'), 'a rollback that was interrupted: its session at the source is gone');
	$session->query('COMMIT');
	$session->quit;
	is($pair->sql_target(q{SELECT state FROM rehome.status WHERE migration = 'l'}), 'rolling_back', 'a rollback that was interrupted: nobody has authority');
	my $open = $source->background_psql('back');
	$open->query_safe(q{BEGIN; SELECT nextval('kept')});
	my $result = finish_psql(start_psql($target, q{CALL rehome.recover('l')}, dbname => 'back'));
	like($result->{stderr}, qr/sessions of the source may give out numbers of sequence public\.kept/, 'a rollback that was interrupted: a number that is held is told of');
	is($pair->sql_target(q{SELECT state FROM rehome.status WHERE migration = 'l'}), 'syncing', 'a rollback that was interrupted: and keeps nobody waiting');
	$open->quit;
}

done_testing();
