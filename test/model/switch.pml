/*
 * switch.pml: cutover, rollback and recover, with two sides, two commits and
 * a crash between any two steps.
 *
 * Checked exhaustively:
 *	- never two authorities: at no instant do both sides take writes;
 *	- nothing lost: whoever takes a write has every earlier write (a counter
 *	  stands for the rows: each write adds one, a batch copies it over);
 *	- recovery ends: whatever died, in the end exactly one side takes writes.
 *
 * What is modelled as one step is one step in the code: a transaction's
 * effects appear at its commit; the slice's work lock keeps the switch and
 * recover apart; the tables' locks keep writers out from the final batch to
 * the commit.  The target's crash kills the switch and loses what it had not
 * committed; the source rolls back when its connection is lost, unless the
 * COMMIT was on its way, when either may be true.
 *
 * mutant: TARGET_FIRST		cutover commits at the target before the source
 * mutant: NO_FINAL_BATCH	cutover takes the fence for the final batch
 * mutant: UNLOCKED			writers are not locked out during the final batch
 * mutant: SOURCE_FIRST		rollback opens the fence before the guard is on
 * mutant: BLIND_RECOVER	recover does not take the work lock
 * mutant: FORGET			recover opens the fence without bringing changes back
 */

#define CRASHES 2
#define WRITES 3
#define SWITCHES 3

mtype = { syncing, cut_over, rolling_back };

/* durable, at the target */
mtype state = syncing;
bool guard = true;
byte target_value = 0;

/* durable, at the source */
bool fenced = false;
byte source_value = 0;

/* locks; all are released when their holder dies */
bool work_lock = false;
bool source_locked = false;		/* writers wait there */
bool target_locked = false;

/* ghosts */
byte writes = 0;				/* committed so far, on either side */
byte crashes = 0;
byte switches = 0;
bool in_flight = false;			/* the target died with the source's COMMIT sent */
bool in_flight_closes = false;	/* what that COMMIT does */
byte in_flight_value = 0;

#define source_open (!fenced)
#define target_open (!guard)
#define one_authority ((source_open && !target_open) || (target_open && !source_open))
#define never_both (!(source_open && target_open))

/* Dies here, perhaps: locks go, nothing uncommitted stays. */
inline may_crash()
{
	if
	:: crashes < CRASHES -> atomic {
			crashes++;
			work_lock = false; source_locked = false; target_locked = false;
			goto dead;
		}
	:: true
	fi
}

/* Sends the source's COMMIT and dies before the answer, perhaps. */
inline may_crash_in_commit(closes, value)
{
	if
	:: crashes < CRASHES -> atomic {
			crashes++;
			work_lock = false; source_locked = false; target_locked = false;
			in_flight = true; in_flight_closes = closes; in_flight_value = value;
			goto dead;
		}
	:: true
	fi
}

/* The source decides about a COMMIT whose sender is dead: its locks are held
 * until then, so that nobody takes them in between. */
active proctype source_server()
{
end:
	do
	:: atomic { in_flight ->
			if
			:: fenced = in_flight_closes;
			   if
			   :: !in_flight_closes -> source_value = in_flight_value
			   :: else
			   fi
			:: true		/* it never arrived */
			fi;
			in_flight = false
		}
	od
}

active [2] proctype client()
{
end:
	do
	:: atomic { writes < WRITES && source_open && !source_locked && !in_flight ->
			assert(source_value == writes);
			source_value++; writes++
		}
	:: atomic { writes < WRITES && target_open && !target_locked ->
			assert(target_value == writes);
			target_value++; writes++
		}
	:: writes == WRITES -> break
	od
}

/* The sync worker: a batch in the direction of the state. */
active proctype worker()
{
end:
	do
	:: atomic { !work_lock && !in_flight && state == syncing && !fenced && target_value != source_value ->
			target_value = source_value }
	:: atomic { !work_lock && !in_flight && state == cut_over && source_value != target_value ->
			source_value = target_value }
	od
}

active proctype dba()
{
	byte batch;

end:
	do
	:: atomic { !work_lock && !in_flight && state == syncing && !fenced && switches < SWITCHES ->
			work_lock = true; switches++ };
		may_crash();
#ifndef UNLOCKED
		atomic { !in_flight -> source_locked = true };
#endif
		target_locked = true;
		may_crash();
#ifdef NO_FINAL_BATCH
		batch = target_value;
#else
		batch = source_value;
#endif
		may_crash();
#ifdef TARGET_FIRST
		atomic { target_value = batch; guard = false; state = cut_over };
		may_crash();
		fenced = true;
#else
		may_crash_in_commit(true, 0);
		fenced = true;
		may_crash();
		atomic { target_value = batch; guard = false; state = cut_over };
#endif
		atomic { source_locked = false; target_locked = false; work_lock = false }

	:: atomic { !work_lock && !in_flight && state == cut_over && switches < SWITCHES ->
			work_lock = true; switches++ };
		may_crash();
		target_locked = true;
		may_crash();
		batch = target_value;
		may_crash();
#ifdef SOURCE_FIRST
		atomic { source_value = batch; fenced = false };
		may_crash();
		atomic { guard = true; state = rolling_back };
#else
		atomic { guard = true; state = rolling_back };
		may_crash_in_commit(false, batch);
		atomic { source_value = batch; fenced = false };
#endif
		may_crash();
		state = syncing;
		atomic { target_locked = false; work_lock = false }

	:: switches == SWITCHES -> break
	od;
	goto done;
dead:
	/* the session is gone for good; what it left is recover's */
	skip;
done:
	skip
}

/* The worker's, or the DBA's, rehome.recover(). */
active proctype recover()
{
	byte batch;

end:
	do
#ifdef BLIND_RECOVER
	:: atomic { !in_flight && (state == rolling_back || (state == syncing && fenced)) -> skip };
#else
	:: atomic { !work_lock && !in_flight && (state == rolling_back || (state == syncing && fenced)) ->
			work_lock = true };
#endif
		may_crash();
		if
		:: state == syncing && fenced ->
			may_crash_in_commit(false, source_value);
			fenced = false
		:: state == rolling_back && fenced ->
#ifdef FORGET
			batch = source_value;
#else
			batch = target_value;
#endif
			may_crash_in_commit(false, batch);
			atomic { source_value = batch; fenced = false };
			may_crash();
			state = syncing
		:: state == rolling_back && !fenced ->
			state = syncing
		:: else
		fi;
		work_lock = false
	od;
dead:
	/* the target starts again, and with it recovery */
	goto end
}

ltl safety { [] never_both }
ltl ends { [] (!one_authority -> <> one_authority) }
