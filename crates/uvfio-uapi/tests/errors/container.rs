//! Requests to a container.

use rustix::io::Errno;
use uvfio_uapi::Node;

use crate::Argument::{Bytes, Value};
use crate::common::{Kind, Memory, NOWHERE, Program, sys};
use crate::{Case, check, structure};

const IOVA: u64 = 0x10_0000;

#[test]
fn version_and_extensions() {
    let program = Program::edu();
    let container = program.open(Node::Container);
    let extensions = |update_vaddr| {
        let has = |extension, value| Case("an extension", Value(extension), Ok(value));
        let mut cases: Vec<Case> = [1, 3, 4, 9].map(|extension| has(extension, 1)).into();
        cases.push(has(10, update_vaddr));
        cases.extend([0, 2, 5, 6, 7, 8, 11, 1 << 32 | 1, u64::MAX].map(|extension| has(extension, 0)));
        cases
    };
    check(
        &program,
        container,
        sys::GET_API_VERSION,
        vec![Case("any", Value(1), Ok(0))],
    );
    check(&program, container, sys::CHECK_EXTENSION, extensions(0));
    let (with_iommu, _) = program.container(7, sys::TYPE1V2);
    check(&program, with_iommu, sys::CHECK_EXTENSION, extensions(1));
}

#[test]
fn an_iommu_needs_a_group_and_is_set_once() {
    let program = Program::edu();
    let container = program.open(Node::Container);
    let refused = |what, kind| Case(what, Value(kind), Err(Errno::INVAL));
    check(
        &program,
        container,
        sys::SET_IOMMU,
        vec![refused("no group", 1), refused("no group", 3)],
    );
    let group = program.open(Node::Group(7));
    program.set_container(group, container).expect("set");
    check(
        &program,
        container,
        sys::SET_IOMMU,
        vec![
            Case("of another platform", Value(2), Err(Errno::NODEV)),
            Case("no such kind", Value(77), Err(Errno::NODEV)),
            Case("no IOMMU", Value(8), Err(Errno::NODEV)),
            Case("an extension that is no IOMMU", Value(9), Err(Errno::INVAL)),
            Case("version 2", Value(3), Ok(0)),
            refused("a second time", 3),
            refused("another", 1),
        ],
    );
}

#[test]
fn nothing_of_an_iommu_is_there_before_it_is_set() {
    let program = Program::edu();
    let container = program.open(Node::Container);
    for request in [0x3b70, 0x3b71, 0x3b72, 0x3b73, 0x3b75, 0x3bff] {
        assert_eq!(
            program.ioctl_value(container, request, NOWHERE),
            Err(Errno::INVAL),
            "request {request:#x}"
        );
    }
}

#[test]
fn what_the_iommu_tells_of_itself_depends_on_the_room() {
    let program = Program::edu();
    let (container, _) = program.container(7, sys::TYPE1V2);
    let mut cases = structure(16);
    cases.push(Case(
        "a program of long ago",
        Bytes(sys::sealed(vec![0; 16])),
        Ok(0),
    ));
    check(&program, container, sys::IOMMU_GET_INFO, cases);

    // The structure alone: told how much the rest needs.
    let mut info = sys::sealed(vec![0xee; 24]);
    program
        .ioctl(container, sys::IOMMU_GET_INFO, &mut info)
        .expect("short is fine");
    let needs = sys::u32_at(&info, 0) as usize;
    assert!(needs > 24, "{needs}");
    assert_eq!(sys::u32_at(&info, 4) & 3, 3, "page sizes and capabilities");
    assert_eq!(sys::u64_at(&info, 8) & 4096, 4096, "page sizes");
    assert_eq!(sys::u32_at(&info, 16), 0, "no capabilities are there yet");

    let mut info = sys::sealed(vec![0xee; needs]);
    program
        .ioctl(container, sys::IOMMU_GET_INFO, &mut info)
        .expect("with room");
    let mut at = sys::u32_at(&info, 16) as usize;
    assert_eq!(at, 24, "right behind the structure");
    let mut found = Vec::new();
    while at != 0 {
        let id = sys::u32_at(&info, at) & 0xffff;
        found.push(id);
        match id {
            1 => {
                assert_eq!(sys::u32_at(&info, at + 8), 2, "two ranges");
                let window = (sys::u64_at(&info, at + 24), sys::u64_at(&info, at + 32));
                assert_eq!(
                    window,
                    (0xfedf_ffff, 0xfef0_0000),
                    "around the interrupts' window"
                );
            }
            2 => assert_eq!(sys::u64_at(&info, at + 16), 4096, "dirty by the smallest page"),
            3 => assert_eq!(sys::u32_at(&info, at + 8), 65_535, "mappings left"),
            _ => panic!("capability {id}"),
        }
        at = sys::u32_at(&info, at + 4) as usize;
    }
    assert_eq!(found, [2, 3, 1]);
}

#[test]
fn what_can_be_wrong_with_a_map() {
    let program = Program::edu();
    let (container, _) = program.container(7, sys::TYPE1V2);
    let memory = Memory::new(1 << 20);
    let here = memory.address();
    let both = sys::READ | sys::WRITE;
    let map = |flags, address, iova, bytes| Bytes(sys::map(flags, address, iova, bytes));
    let mut cases = structure(32);
    let invalid = |what, argument| Case(what, argument, Err(Errno::INVAL));
    cases.extend([
        invalid("an unknown flag", map(both | 8, here, IOVA, 4096)),
        invalid("neither READ nor WRITE", map(0, here, IOVA, 4096)),
        invalid("VADDR with READ", map(sys::VADDR | sys::READ, here, IOVA, 4096)),
        invalid("no bytes", map(both, here, IOVA, 0)),
        invalid("iova not on a page", map(both, here, IOVA + 1, 4096)),
        invalid("iova on half a page", map(both, here, IOVA + 2048, 4096)),
        invalid("vaddr not on a page", map(both, here + 16, IOVA, 4096)),
        invalid("size not of pages", map(both, here, IOVA, 4095)),
        Case(
            "iova past 2^64",
            map(both, here, u64::MAX - 4095, 8192),
            Err(Errno::OVERFLOW),
        ),
        Case(
            "vaddr past 2^64",
            map(both, u64::MAX - 4095, IOVA, 8192),
            Err(Errno::OVERFLOW),
        ),
        invalid("in the interrupts' window", map(both, here, 0xfee0_0000, 4096)),
        invalid(
            "half in the interrupts' window",
            map(both, here, 0xfedf_f000, 8192),
        ),
        invalid("past 48 bits", map(both, here, 1 << 48, 4096)),
        invalid("the last page of all", map(both, here, u64::MAX - 4095, 4096)),
        Case(
            "memory that is not there",
            map(both, 0, IOVA, 4096),
            Err(Errno::FAULT),
        ),
        Case(
            "a new address of nothing",
            map(sys::VADDR, here, IOVA, 4096),
            Err(Errno::NOENT),
        ),
        Case("for reads only", map(sys::READ, here, IOVA, 4096), Ok(0)),
        Case("for writes only", map(sys::WRITE, here, IOVA + 4096, 4096), Ok(0)),
        Case(
            "the last page before the window",
            map(both, here, 0xfedf_f000, 4096),
            Ok(0),
        ),
        Case(
            "the first page behind it",
            map(both, here, 0xfef0_0000, 4096),
            Ok(0),
        ),
        Case("the last page", map(both, here, (1 << 48) - 4096, 4096), Ok(0)),
        Case(
            "the same again",
            map(sys::READ, here, IOVA, 4096),
            Err(Errno::EXIST),
        ),
        Case(
            "over two",
            map(both, here, IOVA - 4096, 4 * 4096),
            Err(Errno::EXIST),
        ),
        Case(
            "over the end of one",
            map(both, here, IOVA + 4096, 8192),
            Err(Errno::EXIST),
        ),
        invalid("a new address of what has one", map(sys::VADDR, here, IOVA, 4096)),
    ]);
    check(&program, container, sys::MAP_DMA, cases);
}

#[test]
fn a_container_has_65535_mappings() {
    let program = Program::edu();
    let (container, _) = program.container(7, sys::TYPE1V2);
    let memory = Memory::new(4096);
    let map = |n: u64| program.map(container, n << 12, memory.address(), 4096, sys::READ);
    for n in 0..65_535 {
        assert_eq!(map(n), Ok(0), "mapping {n}");
    }
    assert_eq!(map(65_535), Err(Errno::NOSPC));
    assert_eq!(map(1), Err(Errno::EXIST), "an overlap is told first");
    assert_eq!(program.unmap(container, 0, 4096, 0), Ok(4096));
    assert_eq!(map(65_535), Ok(0));
}

#[test]
fn locked_memory_has_the_limit_of_the_process() {
    let program = Program::edu();
    let (container, _) = program.container(7, sys::TYPE1V2);
    let memory = Memory::new(3 * 4096);
    let map = |iova, bytes| program.map(container, iova, memory.address(), bytes, sys::READ);
    program.limit_locked_memory(8192);
    assert_eq!(map(0, 3 * 4096), Err(Errno::NOMEM));
    assert_eq!(map(0, 8192), Ok(0));
    assert_eq!(map(8192, 4096), Err(Errno::NOMEM));
    assert_eq!(program.unmap(container, 0, 8192, 0), Ok(8192));
    assert_eq!(map(8192, 4096), Ok(0));
    // One account for all containers of a process, emptied with them.
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Edu), ("0000:02:00.0", 8, Kind::Edu)]);
    program.limit_locked_memory(8192);
    let (one, group) = program.container(7, sys::TYPE1V2);
    let (two, _) = program.container(8, sys::TYPE1);
    let map = |container| program.map(container, 0, memory.address(), 8192, sys::READ);
    assert_eq!((map(one), map(two)), (Ok(0), Err(Errno::NOMEM)));
    program.close(group);
    program.close(one);
    assert_eq!((program.locked_memory(), map(two)), (0, Ok(0)));
}

#[test]
fn what_can_be_wrong_with_an_unmap() {
    let program = Program::edu();
    let (container, _) = program.container(7, sys::TYPE1V2);
    let memory = Memory::new(16 * 4096);
    let map = |iova, bytes| {
        program
            .map(container, iova, memory.address(), bytes, sys::READ)
            .expect("mapped")
    };
    map(IOVA, 4 * 4096);
    let unmap = |flags, iova, bytes| Bytes(sys::unmap(flags, iova, bytes));
    let invalid = |what, argument| Case(what, argument, Err(Errno::INVAL));
    let bitmap = |argsz: u32, page: u64, bytes: u64| {
        let mut argument = sys::unmap(sys::UNMAP_BITMAP, IOVA, 4 * 4096);
        argument[..4].copy_from_slice(&argsz.to_ne_bytes());
        for word in [page, bytes, memory.address()] {
            argument.extend(word.to_ne_bytes());
        }
        Bytes(argument)
    };
    let mut cases = structure(24);
    cases.extend([
        invalid("an unknown flag", unmap(8, IOVA, 4096)),
        invalid("no bytes", unmap(0, IOVA, 0)),
        invalid("iova not on a page", unmap(0, IOVA + 1, 4096)),
        invalid("size not of pages", unmap(0, IOVA, 4097)),
        Case("past 2^64", unmap(0, u64::MAX - 4095, 8192), Err(Errno::OVERFLOW)),
        invalid("ALL with an iova", unmap(sys::UNMAP_ALL, IOVA, 0)),
        invalid("ALL with a size", unmap(sys::UNMAP_ALL, 0, 4096)),
        invalid(
            "ALL with a bitmap",
            unmap(sys::UNMAP_ALL | sys::UNMAP_BITMAP, 0, 0),
        ),
        invalid(
            "VADDR with a bitmap",
            unmap(sys::VADDR | sys::UNMAP_BITMAP, IOVA, 4096),
        ),
        invalid("the beginning of a mapping", unmap(0, IOVA, 4096)),
        invalid("the end of a mapping", unmap(0, IOVA + 4096, 3 * 4096)),
        invalid("the middle of a mapping", unmap(0, IOVA + 4096, 4096)),
        invalid(
            "half of it, and what lies before",
            unmap(0, IOVA - 4096, 3 * 4096),
        ),
        invalid("a bitmap, without room in argsz", bitmap(24, 4096, 8)),
        invalid("a bitmap too small", bitmap(48, 4096, 0)),
        invalid("a bitmap larger than there are", bitmap(48, 4096, (1 << 28) + 8)),
        invalid("a bitmap of no pages", bitmap(48, 0, 8)),
        invalid("a bitmap, while nothing is tracked", bitmap(48, 4096, 8)),
        Case("where nothing is", unmap(0, IOVA + (1 << 30), 4096), Ok(0)),
        Case("the last page of all", unmap(0, u64::MAX - 4095, 4096), Ok(0)),
        Case("its address", unmap(sys::VADDR, IOVA, 4 * 4096), Ok(0)),
        invalid("its address, a second time", unmap(sys::VADDR, IOVA, 4 * 4096)),
        Case("it", unmap(0, IOVA, 4 * 4096), Ok(0)),
        Case("it, a second time", unmap(0, IOVA, 4 * 4096), Ok(0)),
    ]);
    check(&program, container, sys::UNMAP_DMA, cases);

    map(0, 4096);
    map(8192, 8192);
    map(1 << 40, 4096);
    assert_eq!(program.unmap(container, IOVA, 4096, 0), Ok(0));
    assert_eq!(program.unmap(container, 0, 1 << 20, 0), Ok(3 * 4096));
    assert_eq!(program.unmap(container, 0, 0, sys::UNMAP_ALL), Ok(4096));
    assert_eq!(program.unmap(container, 0, 0, sys::UNMAP_ALL), Ok(0));
}

#[test]
fn version_1_takes_a_mapping_whole_or_not_at_all() {
    let program = Program::edu();
    let (container, _) = program.container(7, sys::TYPE1);
    let memory = Memory::new(4 * 4096);
    let map = || program.map(container, IOVA, memory.address(), 4 * 4096, sys::READ);
    assert_eq!(map(), Ok(0));
    assert_eq!(
        program.unmap(container, IOVA + 4096, 4096, 0),
        Ok(0),
        "from within"
    );
    assert_eq!(map(), Err(Errno::EXIST), "it is still there");
    assert_eq!(
        program.unmap(container, IOVA, 4096, 0),
        Ok(4 * 4096),
        "from its first page"
    );
    assert_eq!(map(), Ok(0), "it was gone");
}

#[test]
fn a_mapping_can_get_a_new_address() {
    let program = Program::edu();
    let (container, _) = program.container(7, sys::TYPE1V2);
    let memory = Memory::new(8192);
    program
        .map(container, IOVA, memory.address(), 8192, sys::READ)
        .expect("mapped");
    assert_eq!(program.unmap(container, IOVA, 8192, sys::VADDR), Ok(8192));
    let renew = |iova, bytes| Bytes(sys::map(sys::VADDR, memory.address(), iova, bytes));
    check(
        &program,
        container,
        sys::MAP_DMA,
        vec![
            Case("of a part", renew(IOVA, 4096), Err(Errno::INVAL)),
            Case("of the other part", renew(IOVA + 4096, 4096), Err(Errno::INVAL)),
            Case("of all of it", renew(IOVA, 8192), Ok(0)),
            Case("a second time", renew(IOVA, 8192), Err(Errno::INVAL)),
        ],
    );
}

#[test]
fn dirty_pages_are_all_that_is_mapped() {
    let program = Program::edu();
    let (container, _) = program.container(7, sys::TYPE1V2);
    let (memory, bits) = (Memory::new(4 * 4096), Memory::new(4096));
    let dirty = |flags: u32| Bytes(sys::words(&[8, flags]));
    let get = |iova: u64, size: u64, page: u64, bytes: u64, address: u64| {
        let mut argument = sys::words(&[48, 4]);
        for word in [iova, size, page, bytes, address] {
            argument.extend(word.to_ne_bytes());
        }
        Bytes(argument)
    };
    let there = bits.address();
    program
        .map(container, IOVA, memory.address(), 2 * 4096, sys::READ)
        .expect("mapped");
    program
        .map(container, IOVA + 9 * 4096, memory.address(), 3 * 4096, sys::READ)
        .expect("mapped");
    let invalid = |what, argument| Case(what, argument, Err(Errno::INVAL));
    let mut cases = structure(8);
    cases.extend([
        invalid("no flag", dirty(0)),
        invalid("two flags", dirty(3)),
        invalid("an unknown flag", dirty(8)),
        invalid(
            "a bitmap, while nothing is tracked",
            get(IOVA, 8192, 4096, 8, there),
        ),
        Case("stop, while nothing is tracked", dirty(2), Ok(0)),
        Case("start", dirty(1), Ok(0)),
        Case("start again", dirty(1), Ok(0)),
        invalid("no range", dirty(4)),
        invalid("no bytes", get(IOVA, 0, 4096, 8, there)),
        invalid("iova not on a page", get(IOVA + 1, 8192, 4096, 8, there)),
        invalid("size not of pages", get(IOVA, 8193, 4096, 8, there)),
        invalid("of large pages", get(0, 1 << 21, 1 << 21, 8, there)),
        Case(
            "past 2^64",
            get(u64::MAX - 4095, 8192, 4096, 8, there),
            Err(Errno::OVERFLOW),
        ),
        invalid("a bitmap too small", get(IOVA, 65 * 4096, 4096, 8, there)),
        invalid("a part of a mapping", get(IOVA, 4096, 4096, 8, there)),
        Case(
            "no memory for it",
            get(IOVA, 8192, 4096, 8, NOWHERE),
            Err(Errno::FAULT),
        ),
        Case("where nothing is", get(1 << 40, 4096, 4096, 8, there), Ok(0)),
        Case("all of it", get(IOVA - 4096, 16 * 4096, 4096, 8, there), Ok(0)),
    ]);
    check(&program, container, sys::DIRTY_PAGES, cases);
    // Pages 1, 2 and 10 to 12 of those asked for.
    assert_eq!(bits.get(0, 8), [0b0000_0110, 0b0001_1100, 0, 0, 0, 0, 0, 0]);

    // The same by unmapping, of what was mapped there.
    let mut unmap = sys::unmap(sys::UNMAP_BITMAP, IOVA + 8 * 4096, 4 * 4096);
    for word in [4096, 8, there + 8] {
        unmap.extend(word.to_ne_bytes());
    }
    sys::seal(&mut unmap);
    assert_eq!(program.ioctl(container, sys::UNMAP_DMA, &mut unmap), Ok(0));
    assert_eq!(sys::u64_at(&unmap, 16), 3 * 4096);
    assert_eq!(bits.get(8, 8), [0b1110, 0, 0, 0, 0, 0, 0, 0]);
    check(
        &program,
        container,
        sys::DIRTY_PAGES,
        vec![
            Case("stop", dirty(2), Ok(0)),
            invalid("stopped", get(IOVA, 8192, 4096, 8, there)),
        ],
    );
}

#[test]
fn version_1_tracks_no_dirty_pages() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Edu)]);
    let (container, _) = program.container(7, sys::TYPE1);
    let start = Case("start", Bytes(sys::words(&[8, 1])), Err(Errno::ACCESS));
    let nowhere = Case("nowhere", Value(NOWHERE), Err(Errno::ACCESS));
    check(&program, container, sys::DIRTY_PAGES, vec![start, nowhere]);
}
