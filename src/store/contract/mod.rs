//! What every engine must do: one list of tests, run on SQLite always and on PostgreSQL where
//! `DOORWARD_TEST_POSTGRES` names a server on which databases may be created.
mod batches;
mod changes;
mod growth;
pub(crate) mod kit;
mod ledger_rows;
mod records;
mod shared;

use kit::World;

macro_rules! contract {
    ($($module:ident :: $test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::run(super::World::sqlite().await, super::$module::$test).await })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                if let Some(world) = super::World::postgres().await {
                    super::run(world, super::$module::$test).await;
                }
            })*
        }
    };
}

async fn run(mut world: World, test: impl AsyncFnOnce(&mut World)) {
    test(&mut world).await;
    world.end().await;
}

contract! {
    batches::each_of_a_batch_is_answered_as_if_alone,
    batches::a_batch_that_is_broken_off_leaves_nothing,
    batches::what_was_used_is_refused_first_and_the_others_of_its_batch_go_on,
    batches::callers_that_go_away_while_they_wait_disturb_nobody,
    batches::what_is_read_is_what_was_committed_last_whoever_asks,
    changes::a_consume_raced_200_times_wins_once,
    changes::a_put_of_a_taken_id_is_refused,
    changes::of_many_who_rotate_one_secret_one_goes_on_and_none_once_its_grant_ended,
    changes::a_refused_change_leaves_nothing_and_disturbs_no_neighbour,
    changes::what_may_still_be_consumed_can_be_given_another_expiry_and_nothing_else,
    changes::what_expired_or_whose_grant_ended_cannot_be_consumed,
    changes::a_replay_is_noticed_as_long_as_there_is_something_to_take_back,
    changes::nobody_hears_a_head_before_everybody_heard_what_leads_to_it,
    changes::listeners_hear_before_the_acknowledgement,
    changes::a_revocation_needs_the_event_that_places_it,
    changes::an_object_is_replaced_only_at_its_version_and_keeps_its_key_to_itself,
    changes::a_change_that_believed_another_version_of_an_object_is_refused,
    changes::a_key_moves_only_from_the_named_states,
    changes::the_api_keys_of_an_owner_end_together_and_no_others,
    changes::ending_reaches_exactly_what_is_named,
    records::a_reader_beside_the_writer_sees_what_is_committed_and_changes_nothing,
    records::everything_survives_a_restart,
    records::pages_go_on_where_they_stopped,
    records::what_waits_is_found_by_its_owner_until_it_is_answered_or_over,
    records::who_took_part_is_found_by_session_and_once_that_has_ended,
    records::things_whose_ids_begin_alike_are_listed_in_order_and_no_others,
    records::purge_takes_what_expired_in_batches_and_nothing_else,
    growth::tokens_that_expired_leave_no_row_and_no_page_behind,
    growth::a_chain_is_one_row_however_often_it_was_rotated,
    growth::many_rows_are_counted_about_right_without_reading_them_all,
    ledger_rows::the_chain_verifies_after_concurrent_changes,
    ledger_rows::the_later_revocation_wins_and_one_position_is_never_parted,
    ledger_rows::a_truncated_ledger_verifies_from_its_checkpoint,
    ledger_rows::a_backup_restores_into_an_empty_database_only_and_whole_only,
}
