# The Liar: rows are tampered with at the target, with the guard off for the
# time of one transaction, and at the source behind the capture trigger's back,
# while the source is being written. Verification finds every one of them, with
# the right key and columns, in each mode, and reports nothing about rows that
# nobody has touched.
#
# LIAR_ROWS (5000) rows, verified LIAR_REPEATS (3) times untampered.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $rows    = $ENV{LIAR_ROWS}    // 5000;
my $repeats = $ENV{LIAR_REPEATS} // 3;

my $pair = new_pair(dbname => 'liar');
my $schema = q{
	CREATE TYPE mood AS ENUM ('glad', 'sad');
	CREATE TABLE fact (id bigint PRIMARY KEY, i int, f float8, r real, n numeric, b boolean, t text, x text, vc varchar(20), c char(5),
		ts timestamp, tz timestamptz, d date, tm time, iv interval, u uuid, j json, jb jsonb, by bytea, a int[], e mood,
		ip inet, rg int4range, bits bit varying, m text COLLATE "C", pt point);
	CREATE TABLE pair (a text, b int, v text, PRIMARY KEY (a, b));
	CREATE TABLE made (id int PRIMARY KEY, v text);
	CREATE TABLE far (id bigint PRIMARY KEY, packed bigint, at timestamp NOT NULL);
	CREATE TABLE wide (id int PRIMARY KEY, }
  . join(', ', map { "c$_ int" . ($_ % 2 ? ' NOT NULL' : '') } 1 .. 100) . ');';
$pair->sql_source($schema);
$pair->sql_target($schema);
$pair->sql_source(qq{
	INSERT INTO fact SELECT k, k, 0, 1.5, 1.0, true, 'text ' || k, NULL, 'v', 'ab',
		'2020-01-01 00:00:00', '2020-01-01 00:00:00+00', '2020-01-01', '12:00', '1 day', md5(k::text)::uuid, '{"a": 1}', '{"a": 1}', '\\x00ff',
		'{1,2,NULL}', 'glad', '10.0.0.1', '[1,3)', B'101', 'a', '(0,1)' FROM generate_series(1, $rows) AS k;
	INSERT INTO pair SELECT 'k' || k % 100, k, 'v' || k FROM generate_series(1, 1000) AS k;
	INSERT INTO made SELECT k, 'm' || k FROM generate_series(1, 500) AS k;
	INSERT INTO far SELECT k, 1::bigint << 32 | 2, timestamp '2000-01-01' + (150000::bigint << 32 | 160000) * interval '1 microsecond'
		FROM unnest('{-9223372036854775808,-1,0,1,4294967296,9223372036854775806}'::bigint[]) AS k;
	INSERT INTO wide SELECT k, }
  . join(', ', map { "k * $_" } 1 .. 100) . q{ FROM generate_series(-1000, 1000) AS k});
$pair->import_foreign_schema('public', 'src', qw(fact pair made far wide));
$pair->sql_target(q{
	SELECT rehome.create_migration('l', 'src', 'somebody lies');
	SELECT rehome.add_table('l', 'src.fact', 'fact');
	SELECT rehome.add_table('l', 'src.pair', 'pair');
	SELECT rehome.add_table('l', 'src.made', 'made', columns => '{"v": "upper(v)"}');
	SELECT rehome.add_table('l', 'src.far', 'far');
	SELECT rehome.add_table('l', 'src.wide', 'wide')});
$pair->sql_target(q{CALL rehome.start('l')});
ok($pair->wait_for_state('l', 'syncing'), 'in sync');

# The Liar touches keys up to 200 only, the writers those above.
my $writer = start_pgbench($pair->source, q{
\set k random(201, :rows)
\set p random(201, 1000)
UPDATE fact SET i = i + 1, t = t || 'x', n = n + 0.10, jb = jsonb_build_object('a', i), f = -f, ts = clock_timestamp() WHERE id = :k;
UPDATE pair SET v = md5(v) WHERE b = :p;
INSERT INTO fact (id, t) VALUES (:rows + :client_id * 1000000 + (random() * 900000)::int, 'new') ON CONFLICT DO NOTHING;
DELETE FROM fact WHERE id = :k + :rows;
UPDATE made SET v = v || 'y' WHERE id = :p / 2 + 100;
}, dbname => 'liar', vars => { rows => $rows }, rate => 100);

my @modes = qw(hash rows);
sub verify
{
	my ($arguments) = @_;
	return $pair->sql_target("SELECT string_agg(concat_ws(' ', target, missing, extra, differing), ', ' ORDER BY target::text) FROM rehome.verify('l', $arguments) WHERE NOT ok");
}
sub found
{
	return $pair->sql_target(q{SELECT concat_ws(' ', target, key, kind, columns) FROM rehome.discrepancy WHERE migration = 'l' AND resolved_at IS NULL
		ORDER BY target::text COLLATE "C", key::text COLLATE "C", kind COLLATE "C"});
}

for my $n (1 .. $repeats)
{
	is(verify("mode => '$_'"), '', "untampered, $_, $n") for @modes;
}
is(found(), '', 'nothing is on record');

# Equal rows were found equal by their hashes, and not only in the end.
my (undef, undef, $said) = $pair->target->psql('liar', q{SET client_min_messages = debug1; SELECT count(*) FROM rehome.verify('l')});
is(join("\n", sort $said =~ /: +(public\.\w+: \d+ (?:ranges of keys|buckets) differ)/g), <<'END' =~ s/\n\z//r, 'the hashes of both sides are the same');
public.fact: 0 ranges of keys differ
public.far: 0 buckets differ
public.pair: 0 buckets differ
public.wide: 0 ranges of keys differ
END

# What the Liar does: SQL that tampers with key :k of fact, and the columns.
my @lies = (
	[ 'another number',                  'i = i + 1',                              'i' ],
	[ 'the sign',                        'i = -i',                                 'i' ],
	[ 'no number',                       'i = NULL',                               'i' ],
	[ 'minus zero',                      q{f = '-0'},                              'f' ],
	[ 'NaN',                             q{f = 'NaN'},                             'f' ],
	[ 'infinity',                        q{f = '-Infinity'},                       'f' ],
	[ 'the next float8',                 q{f = 5e-324},                            'f' ],
	[ 'the next real',                   q{r = 1.5000001},                         'r' ],
	[ 'the scale of a numeric',          'n = 1.00',                               'n' ],
	[ 'no scale',                        'n = 1',                                  'n' ],
	[ 'a numeric NaN',                   q{n = 'NaN'},                             'n' ],
	[ 'the 30th digit',                  'n = 1.000000000000000000000000000001',   'n' ],
	[ 'false',                           'b = false',                              'b' ],
	[ 'neither true nor false',          'b = NULL',                               'b' ],
	[ 'a trailing blank',                q{t = t || ' '},                          't' ],
	[ 'a trailing newline',              q{t = t || E'\n'},                        't' ],
	[ 'upper case',                      q{t = upper(t)},                          't' ],
	[ 'a combining accent',              q{t = t || U&'\0301'},                    't' ],
	[ 'an empty text',                   q{t = ''},                                't' ],
	[ 'an empty text for a null',        q{x = ''},                                'x' ],
	[ 'the word null',                   q{x = 'NULL'},                            'x' ],
	[ 'a blank in a varchar',            q{vc = 'v '},                             'vc' ],
	[ 'a char',                          q{c = 'abc'},                             'c' ],
	[ 'a leading blank in a char',       q{c = ' ab'},                             'c' ],
	[ 'a microsecond',                   q{ts = ts + '1 microsecond'},             'ts' ],
	[ 'a microsecond in a timestamptz',  q{tz = tz - interval '1 microsecond'},    'tz' ],
	[ 'an hour',                         q{tz = tz + interval '1 hour'},           'tz' ],
	[ 'a day',                           'd = d + 1',                              'd' ],
	[ 'infinity as a date',              q{d = 'infinity'},                        'd' ],
	[ 'another midnight',                q{tm = '24:00'},                          'tm' ],
	[ '24 hours for a day',              q{iv = '24 hours'},                       'iv' ],
	[ 'a digit of a uuid',               q{u = overlay(u::text placing (CASE left(u::text, 1) WHEN '0' THEN '1' ELSE '0' END) from 1)::uuid}, 'u' ],
	[ 'white space in json',             q{j = '{"a":1}'},                         'j' ],
	[ 'a key twice in json',             q{j = '{"a": 1, "a": 1}'},                'j' ],
	[ 'the scale of a number in jsonb',  q{jb = '{"a": 1.0}'},                     'jb' ],
	[ 'the null of jsonb',               q{jb = 'null'},                           'jb' ],
	[ 'a byte more',                     q{by = '\x00ff00'},                       'by' ],
	[ 'a bit',                           q{by = '\x01ff'},                         'by' ],
	[ 'an element',                      q{a = '{1,2,0}'},                         'a' ],
	[ 'the bounds of an array',          q{a = '[0:2]={1,2,NULL}'},                'a' ],
	[ 'a label',                         q{e = 'sad'},                             'e' ],
	[ 'the mask of an address',          q{ip = '10.0.0.1/24'},                    'ip' ],
	[ 'a bound of a range',              q{rg = '[1,4)'},                          'rg' ],
	[ 'a zero bit',                      q{bits = B'1010'},                        'bits' ],
	[ 'the case under another collation',q{m = 'A'},                               'm' ],
	[ 'a coordinate',                    q{pt = '(0,1.0000000000000002)'},         'pt' ],
	[ 'two columns exchanged',           't = vc, vc = left(t, 20)',               't,vc' ],
	[ 'many columns',                    q{i = 0, n = 0, jb = '[]', d = NULL},     'd,i,jb,n' ]);
cmp_ok(scalar @lies, '>=', 40, 'there are enough lies');

my ($sql, @expected) = ('');
for my $lie (@lies)
{
	my (undef, $set, $columns) = @$lie;
	my $k = 1 + @expected;
	$sql .= "UPDATE fact SET $set WHERE id = $k;\n";
	push @expected, "fact {\"id\": $k} differing {$columns}";
}
# Rows, not values.
$sql .= q{
	UPDATE fact SET i = 301 - i WHERE id IN (150, 151);
	DELETE FROM fact WHERE id = 152;
	INSERT INTO fact (id, t) VALUES (-1, 'nobody''s');
	UPDATE fact SET id = -2 WHERE id = 153;
	UPDATE pair SET v = (ARRAY['v101', 'v1'])[CASE b WHEN 1 THEN 1 ELSE 2 END] WHERE b IN (1, 101);
	UPDATE pair SET a = 'K2' WHERE b = 2;
	UPDATE made SET v = lower(v) WHERE id = 7;};
# The server's hash functions have one hash for these values and those they replace.
$sql .= q{
	UPDATE far SET packed = 2::bigint << 32 | 1 WHERE id = 0;
	UPDATE far SET at = timestamp '2000-01-01' + (160000::bigint << 32 | 150000) * interval '1 microsecond' WHERE id = 1;
	UPDATE far SET id = 1::bigint << 32 | 1 WHERE id = 4294967296;
	UPDATE far SET packed = NULL WHERE id = -9223372036854775808;
	INSERT INTO far SELECT 9223372036854775807, packed, at FROM far WHERE id = -1;};
# Wide rows that exchange a value, far from the key; and the ends of a range of keys.
$sql .= q{
	UPDATE wide SET c97 = 97 * (21 - id), c98 = 98 * (21 - id) WHERE id IN (10, 11);
	UPDATE wide SET c100 = NULL WHERE id = 0;
	UPDATE wide SET id = 5000 WHERE id = 1000;
	DELETE FROM wide WHERE id IN (-1000, -999);};
push @expected, map { "fact {\"id\": $_} differing {i}" } 150, 151;
push @expected, map { "fact {\"id\": $_} missing" } 152, 153;
push @expected, map { "fact {\"id\": $_} extra" } -1, -2;
push @expected, map { "pair {\"a\": \"k1\", \"b\": $_} differing {v}" } 1, 101;
push @expected, map { "far {\"id\": $_->[0]} $_->[1]" }[ 0, 'differing {packed}' ], [ 1, 'differing {at}' ], [ 4294967296, 'missing' ],
  [ 4294967297, 'extra' ], [ '-9223372036854775808', 'differing {packed}' ], [ '9223372036854775807', 'extra' ];
push @expected, map { "wide {\"id\": $_->[0]} $_->[1]" }[ 10, 'differing {c97,c98}' ], [ 11, 'differing {c97,c98}' ], [ 0, 'differing {c100}' ],
  [ 1000, 'missing' ], [ 5000, 'extra' ], [ -1000, 'missing' ], [ -999, 'missing' ];
push @expected, 'pair {"a": "k2", "b": 2} missing', 'pair {"a": "K2", "b": 2} extra', 'made {"id": 7} differing {v}';
my $all = join ' ', map { "ALTER TABLE $_ %s TRIGGER rehome_guard;" } qw(fact pair made far wide);
# The guard is back before anybody can see that it was gone.
my $guard_off = $all =~ s/%s/DISABLE/gr;
my $guard_on  = $all =~ s/%s/ENABLE ALWAYS/gr;
sub tamper { my ($what) = @_; $pair->sql_target("BEGIN; LOCK TABLE fact, pair, made, far, wide IN SHARE ROW EXCLUSIVE MODE; $guard_off $what $guard_on COMMIT"); return }
tamper($sql);

# At the source: what capture has logged is taken out of the log.
my $change = $pair->sql_source(q{SELECT replace(tgname, 'rehome_fence', 'rehome_source.change') FROM pg_trigger
	WHERE tgrelid = 'fact'::regclass AND tgname LIKE 'rehome_fence%' AND tgname NOT LIKE '%truncate'});
$pair->sql_source(qq{
	BEGIN;
	UPDATE fact SET t = t || ' ' WHERE id = 160;
	UPDATE fact SET n = 1.000 WHERE id = 161;
	DELETE FROM fact WHERE id = 162;
	INSERT INTO fact (id) VALUES (-3);
	DELETE FROM $change WHERE xid = txid_current();
	COMMIT});
push @expected, 'fact {"id": 160} differing {t}', 'fact {"id": 161} differing {n}', 'fact {"id": 162} extra', 'fact {"id": -3} missing';
my $expected = join "\n", sort @expected;

for my $mode (@modes)
{
	my $count = sub { my ($table, $kind) = @_; scalar grep { /^$table / && /\} $kind/ } @expected };
	is(verify("mode => '$mode'"),
		join(', ', map { my $t = $_; join ' ', $t, map { $count->($t, $_) } qw(missing extra differing) } qw(fact far made pair wide)), "$mode: all are counted");
	is(join("\n", sort split /\n/, found()), $expected, "$mode: each with its key and columns");
}
is(verify(q{mode => 'count'}), 'far, wide', 'where as many rows are missing as are extra, their number does not tell');

# Parts.
is(verify(q{target => 'pair'}), 'pair 1 1 2', 'one table');
is(verify(q{target => 'fact', filter => 'id BETWEEN 1 AND 10'}), 'fact 0 0 10', 'a range of keys');
is(verify(q{target => 'pair', filter => $$a = 'k1' AND b < 50$$, mode => 'rows'}), 'pair 0 0 1', 'of a composite key');
is(verify(q{target => 'made', filter => 'id = 7'}), 'made 0 0 1', 'of a table with a computed column');
is(join("\n", sort split /\n/, found()), $expected, 'a part closes nothing outside it');
is(verify(q{sample => 1, seed => 5}), verify(q{mode => 'hash'}), 'a sample of everything is everything');
my $sample = q{SELECT concat_ws(' ', target, source_rows > 0, missing, extra, differing) FROM rehome.verify('l', target => 'pair', sample => 0.5, seed => 3)};
is($pair->sql_target($sample), $pair->sql_target($sample), 'the same seed chooses the same keys');
my ($half, $other) = map { $pair->sql_target("SELECT source_rows FROM rehome.verify('l', target => 'pair', sample => 0.5, seed => $_)") } 3, 4;
cmp_ok(abs($half - 500), '<', 120, 'about half of them');
is($pair->sql_target(q{SELECT count(DISTINCT s) FROM generate_series(1, 8) AS g, LATERAL (SELECT source_rows || ' ' || differing FROM rehome.verify('l', target => 'pair', sample => 0.5, seed => g)) AS v(s)}) > 1 ? 1 : 0,
	1, 'another seed, others');
for my $bad (
	[ q{sample => 0},                                   '22023', 'no sample' ],
	[ q{sample => 'NaN'},                               '22023', 'NaN is none' ],
	[ q{seed => NULL},                                  '22004', 'a seed is a number' ],
	[ q{filter => 'id = 1'},                            '22023', 'a filter is of a table' ],
	[ q{target => 'fact', filter => 'id + 1'},          '42804', 'it is a condition' ],
	[ q{target => 'fact', filter => 't IS NULL'},       '42P10', 'on the key' ],
	[ q{target => 'fact', filter => 'id > random()'},   '42P17', 'that is the same everywhere' ],
	[ q{target => 'pair', filter => $$a < 'k5'$$},      '0A000', 'whatever the collation' ],
	[ q{target => 'pg_class'},                          '42704', 'of a target' ])
{
	my ($arguments, $sqlstate, $name) = @$bad;
	is((sqlstate_of($pair->target, "SELECT rehome.verify('l', $arguments)", 'liar'))[0], $sqlstate, "refused: $name");
}
is(verify(q{target => 'pair', filter => $$a < 'k5' COLLATE "C"$$}), 'pair 1 1 2', 'with the collation C it may be an order');

# Made good: read as a whole.
$pair->sql_target(q{SELECT rehome.recopy('l', t::regclass) FROM unnest('{fact,pair,made,far,wide}'::text[]) AS t});
for my $n (1 .. $repeats)
{
	is(verify("mode => '$_'"), '', "made good, $_, $n") for @modes;
}
is(found(), '', 'nothing is open any more');
is_deeply(stop_pgbench($writer)->{errors}, [], 'the writers have noticed nothing');
$pair->sql_target(q{CALL rehome.cancel('l')});

# Many rows that differ in the same way: what is summed up must not come out even.
# Null against the value that has its place in the hash, one way and exchanged.
my %stand_in = (
	int       => '0',
	bigint    => '0',
	boolean   => 'false',
	text      => q{''},
	uuid      => q{'00000000-0000-0000-0000-000000000000'},
	timestamp => q{'1970-01-01'},
	date      => q{'2000-01-01'},
	numeric   => '0');
my $named = sub { my ($type) = @_; "void_$type" };
my $every = sub { my ($statement) = @_; join '', map { my $s = $statement; $s =~ s/TABLE_/$named->($_)/ge; $s =~ s/TYPE_/$_/g; $s =~ s/VALUE_/$stand_in{$_}/g; "$s;\n" } sort keys %stand_in };
my $void = $every->('CREATE TABLE TABLE_ (id int PRIMARY KEY, v TYPE_)');
$pair->sql_source($void . $every->('INSERT INTO TABLE_ SELECT k, CASE WHEN k % 2 = 0 THEN VALUE_::TYPE_ END FROM generate_series(1, 20000) AS k'));
$pair->sql_target($void);
$pair->import_foreign_schema('public', 'src', map { $named->($_) } sort keys %stand_in);
$pair->sql_target(q{SELECT rehome.create_migration('v', 'src', 'null and nothing');} . $every->(q{SELECT rehome.add_table('v', 'src.TABLE_', 'TABLE_')}) . q{CALL rehome.copy('v')});
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('v') WHERE ok}), scalar keys %stand_in, 'null and what stands for it: equal');
my $lie = sub {
	my ($set, $where) = @_;
	$pair->sql_target('BEGIN;' . $every->("ALTER TABLE TABLE_ DISABLE TRIGGER rehome_guard; UPDATE TABLE_ SET v = $set WHERE $where; ALTER TABLE TABLE_ ENABLE ALWAYS TRIGGER rehome_guard") . 'COMMIT');
	return;
};
my $differing = sub { return $pair->sql_target(q{SELECT string_agg(target || ' ' || differing, ', ' ORDER BY target::text COLLATE "C") FROM rehome.verify('v')}) };
my $all_of = sub { my ($n) = @_; return join ', ', map { $named->($_) . " $n" } sort keys %stand_in };
$lie->('VALUE_', 'v IS NULL AND id <= 400');
is($differing->(), $all_of->(200), 'a value for each of two hundred nulls');
$lie->('CASE WHEN v IS NULL THEN VALUE_::TYPE_ END', 'id BETWEEN 401 AND 800');
is($differing->(), $all_of->(600), 'and exchanged, in neighbours');
$pair->sql_target(q{CALL rehome.cancel('v')});

# A row that is there twice, which nothing keeps the target from any more.
$pair->sql_source(q{CREATE TABLE twice (id int PRIMARY KEY, v text); INSERT INTO twice SELECT k, k FROM generate_series(1, 3000) AS k});
$pair->sql_target(q{CREATE TABLE twice (id int CONSTRAINT one PRIMARY KEY, v text)});
$pair->import_foreign_schema('public', 'src', 'twice');
$pair->sql_target(q{SELECT rehome.drop_migration('l'); SELECT rehome.create_migration('l', 'src', 'once more'); SELECT rehome.add_table('l', 'src.twice', 'twice'); CALL rehome.copy('l')});
my $incremental = q{mode => 'rows', incremental => true};
is(verify($_), '', "twice: equal, $_") for q{mode => 'hash'}, $incremental;
my $twice = sub { return $pair->sql_target("BEGIN; ALTER TABLE twice DISABLE TRIGGER rehome_guard; $_[0]; ALTER TABLE twice ENABLE ALWAYS TRIGGER rehome_guard; COMMIT") };
$twice->(q{ALTER TABLE twice DROP CONSTRAINT one; INSERT INTO twice SELECT * FROM twice WHERE id IN (7, 2000)});
is(verify($_), 'twice 0 2 0', "twice: found, $_") for q{mode => 'hash'}, q{mode => 'rows'}, $incremental, q{mode => 'rows', target => 'twice', filter => 'id BETWEEN 1 AND 2500'};
is(found(), 'twice {} unrecorded', 'twice: on record as what no key tells');
$twice->(q{DELETE FROM twice USING twice AS o WHERE o.id = twice.id AND o.ctid < twice.ctid; ALTER TABLE twice ADD PRIMARY KEY (id)});
is(verify($_), '', "twice: made good, $_") for q{mode => 'hash'}, $incremental;
is(found(), '', 'twice: nothing is open any more');
$pair->sql_target(q{CALL rehome.cancel('l')});

done_testing();
